"""Snapshots of pagemap, and their comparison with the timeline."""
