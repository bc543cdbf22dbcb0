"""From the ring to numpy: the records and how they are read."""
