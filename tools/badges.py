"""Put an "Open in Colab" badge and an install line into every notebook and the README.

python tools/badges.py [folder of the project]

The address comes from pyproject.toml: `Repository = "https://github.com/OWNER/NAME"` under [project.urls].
Run again, it changes nothing; after a change of the address, it replaces the old one.
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat
from listing import ROOT, notebooks

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where JupyterLab brings the same reader under its old name
    import tomli as tomllib

BRANCH = "main"
COLAB = "https://colab.research.google.com"
BLOCK = re.compile(r"<!-- colab -->.*?<!-- end colab -->", re.S)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT, help="default: this project")
    root = parser.parse_args(arguments).folder.resolve()
    url = repository(root)
    if not url:
        print('No badges: pyproject.toml has no [project.urls] Repository = "https://github.com/OWNER/NAME".')
        return 1
    changed = [file for file in notebooks(root / "notebooks") if badge_notebook(file, root, url)]
    changed += [file for file in [root / "README.md"] if badge_readme(file, url)]
    print(f"{len(changed)} files changed: badges and install lines of {url}")
    return 0


def project(root=ROOT):
    """The table `[project]` of pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def repository(root=ROOT):
    """Where the project lives on GitHub, without a slash at the end; None where it is not said."""
    url = project(root).get("urls", {}).get("Repository")
    if url is None:
        return None
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/?", url):
        raise SystemExit(
            f"pyproject.toml: Repository = {url!r} is not of the form https://github.com/OWNER/NAME"
        )
    return url.rstrip("/").removesuffix(".git")


def badge_notebook(file, root, url):
    """Bring the first cell of a notebook up to date; says whether that changed anything."""
    notebook = nbformat.read(file, as_version=4)
    first = notebook.cells[0]
    before = first.source
    path = f"blob/{BRANCH}/{file.relative_to(root).as_posix()}"
    block = framed(
        f"{badge(f'{colab(url)}/{path}')}\n"
        f"There, first run `%pip install --quiet git+{url}` in a cell of its own."
    )
    first.source = with_block(before, block) or f"{before.rstrip()}\n\n{block}"
    if first.source != before:
        nbformat.write(notebook, file)
    return first.source != before


def badge_readme(file, url):
    """The same for the README: between the two comments, or under its title where it has none."""
    before = file.read_text(encoding="utf-8")
    block = framed(
        f"{badge(colab(url))}\n"
        f"lists the sessions; in the one you open, first run `%pip install --quiet git+{url}`\n"
        f"in a cell of its own. For your own code: `pip install git+{url}`."
    )
    title, _, rest = before.partition("\n")
    text = with_block(before, block) or f"{title}\n\n{block}\n{rest}"
    file.write_text(text, encoding="utf-8")
    return text != before


def colab(url):
    """The page of Colab that opens notebooks of a repository."""
    return f"{COLAB}/github/{url.removeprefix('https://github.com/')}"


def badge(link):
    # HTML, as Colab itself writes it: in Markdown it would count as one of the session's described pictures
    return f'<a href="{link}"><img src="{COLAB}/assets/colab-badge.svg" alt="Open in Colab"></a>'


def framed(text):
    return f"<!-- colab -->\n{text}\n<!-- end colab -->"


def with_block(text, block):
    """`text` with its block replaced; None where it has none."""
    return BLOCK.sub(lambda _: block, text) if BLOCK.search(text) else None


def without_block(text):
    """`text` as it was before it got its block."""
    return BLOCK.sub("", text).rstrip() if BLOCK.search(text) else text


if __name__ == "__main__":
    sys.exit(main())
