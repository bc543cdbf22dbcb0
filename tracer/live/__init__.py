"""--live: a full-screen view of the page map. Imported by nobody who does not ask for it."""
