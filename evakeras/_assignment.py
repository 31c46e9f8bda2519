"""`python -m evakeras assignment`: a folder to begin the assignment on L1 and L2 in.

The templates in `assignment/` are copied as they are, and with them, into `helpers/`, the helper files that
they import: a student reads six short files of their own, and hands in a folder that runs without evakeras.
"""

import json
import os
import re
import shutil
from pathlib import Path

from evakeras import __version__
from evakeras._copy import PACKAGE, Refused, helpers, needs

TEMPLATES = PACKAGE / "assignment"
NAMED = ("README.md", "assignment.ipynb")  # where the student's name goes
PLAIN = (
    "data.py",
    "misc.py",
    "model.py",
    "regularization.py",
    "settings.py",
    "test.py",
    "train.py",
    "helpers/LICENSE",
    "helpers/__init__.py",
)
HELPERS = ("data", "evaluate", "plots", "regularizers", "train")
IGNORED = "runs/\n__pycache__/\n.ipynb_checkpoints/\n"


def create(folder, name=None):
    """Make the folder, whole or not at all, and return it as it was given."""
    name = _check_name(name)
    target = _check_folder(Path(folder))
    draft = target.with_name(f".{target.name}.draft-{os.getpid()}")
    try:
        draft.mkdir()
        try:
            _fill(draft, name)
            if target.exists():
                target.rmdir()  # it is empty
            draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)  # only what was made here
    except OSError as error:
        raise Refused(f"{folder} was not made: {error.strerror or error}") from error
    return Path(folder)


def _check_name(name):
    if name is None:
        return "YOUR NAME"
    if not name.strip() or not name.isprintable():
        raise Refused(f"--name {name!r} must be a name in one line")
    return name.strip()


def _check_folder(folder):
    target = folder.resolve()
    if target.exists() and not target.is_dir():
        raise Refused(f"{folder} is a file; give a folder that does not exist yet")
    if target.is_dir() and any(target.iterdir()):
        raise Refused(f"{folder} is not empty; give a folder that does not exist yet")
    if not target.parent.is_dir():
        raise Refused(f"{folder} cannot be made: {target.parent} does not exist")
    if target == Path.cwd():
        raise Refused("the folder you are in cannot be replaced; go one up, and give its name")
    return target


def _fill(draft, name):
    (draft / "helpers").mkdir()
    for file in PLAIN:
        shutil.copyfile(TEMPLATES / file, draft / file)
    for helper in HELPERS:
        shutil.copyfile(helpers()[helper], draft / "helpers" / f"{helper}.py")
    for file in NAMED:
        text = (TEMPLATES / file).read_text(encoding="utf-8")
        _write(draft / file, _filled(text, name, quoted=file.endswith(".ipynb")))
    _write(draft / ".gitignore", IGNORED)
    _write(draft / "requirements.txt", "".join(f"{line}\n" for line in _requirements(draft)))


def _write(file, text):
    file.write_text(text, encoding="utf-8", newline="\n")


def _filled(text, name, quoted):
    """The text with name and version; what Markdown would take for markup in a name is escaped."""
    escaped = re.sub(r"([\\`*_\[\]<>&$~|])", r"\\\1", name)
    if quoted:  # inside a JSON string
        escaped = json.dumps(escaped, ensure_ascii=False)[1:-1]
    return text.replace("{{version}}", __version__).replace("{{name}}", escaped)


def _requirements(draft):
    """What the folder's own files import, in the versions that evakeras supports."""
    own = {file.stem for file in draft.glob("*.py")} | {"helpers"}
    names = {name for file in draft.rglob("*.py") for part in needs(file) for name in part}
    return sorted(name for name in names if name not in own)
