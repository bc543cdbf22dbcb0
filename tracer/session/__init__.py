"""A trace from its start to its end: what is read when, and where the results go."""
