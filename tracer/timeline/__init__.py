"""Which page had which frame when: the state of all pages, and what moves it."""
