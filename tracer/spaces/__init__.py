"""Whose memory it is, and which mapping was where, when."""
