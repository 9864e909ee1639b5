"""``python -m hora.horovod train.py …``: runs a script that finds hora under Horovod's name.

For jobs that horarun does not start: under torchrun, or as a single process.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from hora.horovod import alias

_USAGE = "usage: python -m hora.horovod SCRIPT [arguments …] (or: -m MODULE [arguments …])"


def main() -> None:
    """Replaces this program by the script in sys.argv, as ``python SCRIPT`` would."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help") or words == ["-m"]:
        sys.exit(_USAGE)
    # For the processes that the script starts, such as a DataLoader's.
    folders = [str(alias.FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(folders)
    sys.path.insert(0, str(alias.FOLDER))
    __import__("horovod")  # now, so that a package of this name beside the script does not win
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main()
