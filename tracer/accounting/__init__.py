"""The kernel's own counts of faults, against which all others are held."""
