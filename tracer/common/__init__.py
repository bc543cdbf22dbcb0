"""What every part may use: errors, text, units, arrays."""
