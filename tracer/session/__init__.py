"""A trace from its start to its end: what is read when, and who is told of it."""
