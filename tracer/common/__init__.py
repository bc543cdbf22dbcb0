"""Modules that every package may use: errors, text, units, arrays."""
