"""pagefault-report: reports on a finished trace, from the files it wrote.

Needs no root, no bcc and no Linux; the tracer imports nothing of it.
"""
