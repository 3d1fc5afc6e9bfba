"""Measures beside peers, on this machine and in one run: `python -m bench --help`."""
