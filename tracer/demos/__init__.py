"""singlemap and multimap, the demonstration programs."""
