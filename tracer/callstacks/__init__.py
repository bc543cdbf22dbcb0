"""Call stacks: unwound, and symbolized to functions and source lines."""
