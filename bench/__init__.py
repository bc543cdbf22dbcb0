"""Measurements of what tracing costs: `python -m bench`."""
