"""`python -m crashcast`: the commands, if the package is on the path and not installed, as in a container."""

from crashcast.cli import main

main()
