"""The program inside a sandbox: imports the user's module once, forks a fresh process for each run of `main`.

Standard library only, on syntax that CPython 3.8 accepts. It shares its process with hostile code: nothing it says is
trusted. Copied into each sandbox under `/agent`; the host imports only `wire` from here.
"""
