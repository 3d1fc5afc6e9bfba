"""Programs for other interpreters than the platform's own: standard library only, CPython 3.8 and newer.

A sandbox has this package alone, so its modules import each other relatively and nothing else of ours.
"""
