"""`python -m fedfm` is the command `fedfm`."""

from fedfm.cli import main

main()
