"""--live: a full-screen view of the page map. Imported only where it is requested."""
