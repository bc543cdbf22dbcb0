"""Symbolization: files that targets chose, read by a process without privileges.

`lookup` and `perf_maps` ask, `helper` keeps the process and its budgets, `messages` is the
protocol, `server` answers. Nothing but `server` reads what is in such a file.
"""
