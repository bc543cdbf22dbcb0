"""Outputs of a trace: console, CSV, pages, summary, budgets, verdict."""
