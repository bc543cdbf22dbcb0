"""The command pagefault-trace: options, what a trace is made of, --check."""
