"""Output files, opened and written with the rights of whoever asked for them."""
