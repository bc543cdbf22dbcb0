"""What is printed: sentences, tables, comparisons."""
