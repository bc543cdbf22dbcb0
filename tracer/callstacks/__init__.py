"""Call stacks: which code it was, in functions and source lines."""
