"""`python -m fas`."""

from fas.app import main

main()
