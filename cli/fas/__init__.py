"""The `fas` command: the platform from a shell. Imports the client library only."""
