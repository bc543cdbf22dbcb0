"""The files of a finished trace, read."""
