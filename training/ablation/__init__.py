"""What `ablate.py` compares, how it runs it, and the tables it writes."""
