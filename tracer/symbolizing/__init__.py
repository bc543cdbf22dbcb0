"""Names of code: what is read of files that targets chose, by a process without rights.

`lookup` and `perf_maps` ask, `helper` keeps the process and its budgets, `messages` is what
goes between, `server` answers. Nothing but `server` reads what is in such a file.
"""
