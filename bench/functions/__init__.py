"""The same small function as each peer wants it written."""
