"""Data transforms that training shares with tests."""
