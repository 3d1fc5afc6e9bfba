"""Environments: found interpreters, locks, builds, and the installed packages that sandboxes mount read-only."""
