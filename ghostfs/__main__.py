"""`python -m ghostfs`: the command, for where its script is not on the PATH."""

from ghostfs.cli import main

main()
