"""Which page had which frame when: the state of all pages, and the rules that change it."""
