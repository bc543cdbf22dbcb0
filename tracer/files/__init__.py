"""Output files, opened and written with the rights of the user who requested them."""
