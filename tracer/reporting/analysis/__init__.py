"""Statistics of the faults and pages of a run."""
