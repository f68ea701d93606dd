"""``python -m posterior``: the command line."""

from posterior.cli import main

main()
