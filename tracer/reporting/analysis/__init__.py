"""What the faults and pages of a run come to, as numbers."""
