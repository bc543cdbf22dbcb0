"""From a record, its mapping and the state of its page to a row."""
