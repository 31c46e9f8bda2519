"""`python -m evakeras copy`: copy helper files, and tell what each needs."""

import ast
import difflib
import importlib.metadata
import os
import re
import shutil
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}  # imported under another name than installed


class Refused(Exception):
    """A command that was not carried out; the message says why and what to do."""


def helpers():
    """Name → file of each helper."""
    return {file.stem: file for file in sorted(PACKAGE.glob("[a-z]*.py"))}


def summary(file):
    """The first line of a helper's docstring."""
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))).splitlines()[0]


def copy_files(names, folder, force=False):
    """Copy helpers into a folder, all or none, and return the new files."""
    files = [_helper(name) for name in dict.fromkeys(name.removesuffix(".py") for name in names)]
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise Refused(f"{folder} is a file, not a folder")
    if not folder.exists() and not folder.parent.is_dir():
        raise Refused(f"{folder} cannot be made: {folder.parent} does not exist")
    targets = [folder / file.name for file in files]
    _check_targets(targets, force)
    try:
        _write_all(files, targets)
    except OSError as error:
        raise Refused(f"nothing was copied to {folder}: {error.strerror or error}") from error
    return targets


def _helper(name):
    known = helpers()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.5)
    guess = f"Did you mean {' or '.join(near)}? " if near else ""
    raise Refused(f"there is no helper {name!r}. {guess}`python -m evakeras copy --list` says what there is")


def _check_targets(targets, force):
    for target in targets:
        if target.is_dir():
            raise Refused(f"{target} is a folder; nothing was copied")
    there = [str(target) for target in targets if os.path.lexists(target)]
    if there and not force:
        verb = "is there already" if len(there) == 1 else "are there already"
        raise Refused(f"{', '.join(there)} {verb}; nothing was copied. --force replaces, and loses the old")


def _write_all(files, targets):
    """Write all under other names first, then give them their names: a full disk leaves nothing half-done."""
    folder = targets[0].parent
    made = not folder.exists()
    folder.mkdir(exist_ok=True)
    drafts = [target.with_name(f".{target.name}.draft-{os.getpid()}") for target in targets]
    try:
        for file, draft in zip(files, drafts, strict=True):
            shutil.copyfile(file, draft)
        for number, (draft, target) in enumerate(zip(drafts, targets, strict=True)):
            try:
                os.replace(draft, target)
            except OSError as error:
                if number:
                    why = error.strerror or error
                    raise Refused(f"only {number} of {len(targets)} files were copied: {why}") from error
                raise
    finally:
        for draft in drafts:
            if draft.exists():
                draft.unlink()
        if made and not any(folder.iterdir()):
            folder.rmdir()


def needs(file):
    """What a Python file imports from outside the standard library: always, and only in some functions.

    Two lists of requirements, such as "keras>=3.10". Keras brings TensorFlow along, its usual backend.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    always, all_of_it = _imported(tree.body), _imported(ast.walk(tree))
    if "keras" in all_of_it:
        (always if "keras" in always else all_of_it).add("tensorflow")
        all_of_it -= {"jax", "torch"}  # the other backends: whoever uses one has it
    ranges = requirements()
    return [
        [f"{name}{ranges.get(name, '')}" for name in sorted(names)] for names in (always, all_of_it - always)
    ]


def needs_in_words(file):
    always, sometimes = needs(file)
    text = f"needs {', '.join(always)}" + (f"; for some of it {', '.join(sometimes)}" if sometimes else "")
    return re.sub(r"(tensorflow[^,;]*)", r"\1 (or jax, or torch)", text)


def _imported(nodes):
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return {DISTRIBUTIONS.get(name, name) for name in names - sys.stdlib_module_names}


def requirements(extras=True):
    """Name → range, as ">=3.10", of all that evakeras asks for; "python" is among them.

    From pyproject.toml in a checkout, else from what pip noted when it installed the package.
    """
    found = {}
    for line, extra in _requirement_lines():
        name, versions = re.match(r"([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*\(?([^;)]*)", line).groups()
        if extras or not extra:
            found.setdefault(name.lower(), versions.replace(" ", ""))
    return found


def _requirement_lines():
    """Pairs of a requirement and whether it belongs to an extra."""
    project = _pyproject()
    if project:
        yield f"python{project['requires-python']}", False
        yield from ((line, False) for line in project["dependencies"])
        for lines in project["optional-dependencies"].values():
            yield from ((line, True) for line in lines)
        return
    try:
        installed = importlib.metadata.distribution("evakeras")
    except importlib.metadata.PackageNotFoundError:
        return
    yield f"python{installed.metadata['Requires-Python'] or ''}", False
    yield from ((line, "extra ==" in line) for line in installed.requires or ())


def _pyproject():
    try:
        import tomllib

        project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (ImportError, OSError, ValueError, KeyError):  # Python 3.10, or no checkout
        return None
    return project if project.get("name") == "evakeras" else None
