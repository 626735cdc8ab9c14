"""Hugging Face's package `evaluate`, whatever else is called so.

`training/evaluate.py` has that name too, and scripts in its folder would import it instead: it is looked for where pip
put it.
"""

import importlib.util
import sys
from importlib import metadata
from importlib.machinery import PathFinder
from types import ModuleType

from ...errors import MissingDependencyError


def _import() -> ModuleType:
    found = sys.modules.get("evaluate")
    if found is not None and hasattr(found, "EvaluationModule"):
        return found
    try:
        place = str(metadata.distribution("evaluate").locate_file(""))
        spec = PathFinder.find_spec("evaluate", [place])
        module = importlib.util.module_from_spec(spec)
        sys.modules["evaluate"] = module
        spec.loader.exec_module(module)
    except (metadata.PackageNotFoundError, ImportError, AttributeError) as error:
        sys.modules.pop("evaluate", None)
        raise MissingDependencyError(
            'the metric modules need evaluate: pip install "avatarsync[eval]" (or -e ".[eval]" in a checkout)'
        ) from error
    return module


evaluate = _import()
