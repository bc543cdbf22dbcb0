"""The kernel's own counts of faults, with which all others are compared."""
