"""``python -m mfdistill`` and ``accelerate launch -m mfdistill``."""

import sys

from mfdistill.cli import main

if __name__ == "__main__":
    sys.exit(main())
