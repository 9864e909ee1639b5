"""``python -m hora.cli`` is ``hora``."""

import sys

from hora.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
