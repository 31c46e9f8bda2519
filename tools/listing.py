"""Which notebooks there are, and which of them a command line asks for."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"


def sessions(folder=NOTEBOOKS):
    return sorted(folder.glob("[0-9]*.ipynb"))


def notebooks(folder=NOTEBOOKS):
    """The sessions, then the solutions."""
    return sessions(folder) + sorted(folder.glob("solutions/[0-9]*.ipynb"))


def chosen(files, only):
    """Those of the files whose names begin with one of the numbers; all of them without any."""
    if not only:
        return files
    found = [file for file in files if file.name.startswith(tuple(only))]
    if not found:
        sys.exit(f"No notebook begins with {' or '.join(only)}.")
    return found
