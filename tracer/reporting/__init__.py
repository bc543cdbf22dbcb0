"""pagefault-report: what a finished trace says, from the files it left.

Needs no root, no bcc and no Linux; the tracer imports nothing of it.
"""
