"""Address spaces and their mappings over time."""
