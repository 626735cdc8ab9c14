"""What `benchmark.py` measures, part by part, and the report it writes."""
