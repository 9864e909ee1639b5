"""``python -m hora.launch`` is ``horarun``."""

import sys

from hora.launch.cli import main

if __name__ == "__main__":
    sys.exit(main())
