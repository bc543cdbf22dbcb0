"""What a trace is told to: console, CSV, pages, summary, budgets, verdict."""
