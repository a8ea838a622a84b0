"""``python -m cograd`` is the ``cograd`` command."""

import sys

from cograd.cli import main

if __name__ == "__main__":
    sys.exit(main())
