"""The training scripts import each other as scripts do: from their own folder; the tests share helpers likewise."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "training"), str(HERE)]
