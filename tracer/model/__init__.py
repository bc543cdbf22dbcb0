"""What the parts hand to each other: rows, sources, budgets, and the result of a trace."""
