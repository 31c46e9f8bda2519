"""evakeras: the helpers that the course's notebooks share.

Each module is one file that works alone; `from evakeras import data` imports only that one.
Importing the package itself loads nothing heavy, and says in one line if Keras or TensorFlow is too old.
"""

import contextlib
import sys

__version__ = "0.1.0"

_OLDEST = {"keras": "3.10", "tensorflow": "2.19", "tensorflow-cpu": "2.19"}  # as in pyproject.toml


def unsupported() -> str:
    """What is installed here but too old for the helpers.

    Looks at the versions that the installer noted down, so that nothing is imported.

    Returns:
        One line that names each old package and the version needed; empty where all is well.

    Example:
        >>> unsupported()
        ''
    """
    import re
    from importlib import metadata

    def number(version):
        return [int(part) for part in re.findall(r"\d+", version)[:2]]

    old = []
    for name, oldest in _OLDEST.items():
        with contextlib.suppress(Exception):  # not installed, or a version that cannot be read
            version = metadata.version(name)
            if [] < number(version) < number(oldest):
                old.append(f"{name} {version} (needs {oldest} or newer)")
    return f"evakeras does not support what is installed here: {', '.join(old)}." if old else ""


with contextlib.suppress(Exception):  # a remark must never be what stops an import
    if unsupported():
        print(unsupported(), file=sys.stderr)
