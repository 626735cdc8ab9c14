"""The parts of `training/evaluate.py`: networks that look at frames, one module per kind of material, the report."""
