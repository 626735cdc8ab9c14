"""`avatarsync evaluate`: talking-head videos against real ones, or against other systems'.

    from avatarsync.evaluation import evaluate, find_material
    report = evaluate(find_material("clips"), "report")

What is measured, and by which formulas and networks: docs/metrics.md.
"""

from .evaluating import evaluate
from .material import Case, Material, find_material
from .measuring import Networks

__all__ = ["Case", "Material", "Networks", "evaluate", "find_material"]
