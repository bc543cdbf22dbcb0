"""The command pagefault-trace: options, setting up a trace, --check."""
