"""Run the command line as ``python -m svdinv``."""

import sys

from svdinv.cli import main

if __name__ == "__main__":
    sys.exit(main())
