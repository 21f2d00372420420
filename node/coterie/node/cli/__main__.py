"""`python -m coterie.node.cli` is the command `coterie`."""

import sys

from coterie.node.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
