"""The kernel interface: record layouts, the ring, and batches of records in numpy."""
