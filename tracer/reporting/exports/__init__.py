"""Formats of other programs: Perfetto, Chrome, speedscope, folded stacks."""
