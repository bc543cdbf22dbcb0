"""pagemap, read now and then and held against the timeline."""
