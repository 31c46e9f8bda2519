"""What the tools share: which notebooks there are, and how they are run and written."""

import os
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
    found = [file for file in files if file.name.startswith(tuple(number.zfill(2) for number in only))]
    if not found:
        sys.exit(f"No notebook begins with {' or '.join(only)}.")
    return found


def set_variables(quick):
    """For the notebooks that this process starts."""
    os.environ["EVAKERAS_QUICK"] = "1" if quick else ""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if os.environ.get("EVAKERAS_DATA"):  # they run in folders of their own
        os.environ["EVAKERAS_DATA"] = str(Path(os.environ["EVAKERAS_DATA"]).resolve())


def write_whole(file, text):
    """Replace a file, whole or not at all, should Ctrl-C come."""
    draft = file.with_name(f".{file.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)


def indented(error):
    """The end of an error, to show below the name of a notebook."""
    return "\n".join("    " + line for line in error.splitlines()[-15:])
