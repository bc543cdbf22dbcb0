"""singlemap and multimap, the programs that the experiment began with."""
