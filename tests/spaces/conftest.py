"""The demo's modules stand beside its app.py, as they do in a Space."""

import sys
from pathlib import Path

SPACES = Path(__file__).resolve().parents[2] / "spaces"
sys.path.insert(0, str(SPACES))
