"""`python -m coterie.node.cli` is the command `coterie`."""

import sys

from coterie.node.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
