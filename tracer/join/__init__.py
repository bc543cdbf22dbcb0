"""Fault records joined with their mappings and page-table entries into rows."""
