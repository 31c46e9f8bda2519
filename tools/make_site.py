"""Build the course site from what is committed; no notebook is executed.

python tools/make_site.py build/site

A copy of the sources, laid out as the project is so that its links hold, is made in a folder beside it.
There, README.md is cut into pages, and notebooks get what a page needs and a notebook does not.
"""

import argparse
import os
import re
import shutil
import sys
import time
from pathlib import Path

import nbformat
from badges import without_block
from course import COVER, described, title
from listing import ROOT, notebooks, sessions
from sphinx.cmd.build import build_main

PAGES = {
    "start.md": ("Start", "At the command line"),
    "results.md": ("Results",),
    "helpers.md": ("The helpers",),
}
COPIED = (
    "assets/*",
    "benchmarks/*.*",
    "evakeras/*.py",
    "CLAIMS.md",
    "CONTRIBUTING.md",
    "CITATION.cff",
    "LICENSE*",
)
ROW = re.compile(r"^\| \[(.+?)\]\((notebooks/\w+)\.ipynb\) \| (.+?) \| (.+?), (.+?) \|", re.M)
NAMED = re.compile(r"(?<!\[)`([\w./-]+\.(?:ipynb|md))`")
SESSION = re.compile(r"(?<!\[)\b[Ss]ession (\d\d)\b")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to leave the pages")
    folder, start = parser.parse_args().folder.resolve(), time.perf_counter()
    work = folder.with_name(f"{folder.name}-work")
    for old in (folder, work):
        shutil.rmtree(old, ignore_errors=True)
    lay_out(work / "source")
    # In one process: TensorFlow, which the reference imports, may die in one that is forked from it.
    checks = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet"]
    places = ["--conf-dir", ROOT / "docs", "--doctree-dir", work / "read", work / "source", work / "pages"]
    if build_main([*checks, *map(str, places)]):
        sys.exit("The site was not built: mend what is said above.")
    shutil.move(work / "pages", folder)
    for file in notebooks():  # what the button on a session's page downloads is the notebook as committed
        shutil.copy(file, folder / "_sources" / file.relative_to(ROOT))
    pages = list(folder.rglob("*.html"))
    for page in pages:
        name_folds(page)
    print(f"{len(pages)} pages in {time.perf_counter() - start:.0f} s. Open {folder / 'index.html'}")


def name_folds(page):
    """Say what the arrows of the sidebar are for: the theme gives them a picture and no words."""
    arrow = '<span class="toctree-toggle"'
    text = page.read_text(encoding="utf-8")
    write(page, text.replace(f"<summary>{arrow}", f'<summary aria-label="Pages below this one">{arrow}'))


def lay_out(source):
    """Fill the folder from which Sphinx builds."""
    shutil.copytree(ROOT / "docs", source, ignore=shutil.ignore_patterns("conf.py", "__pycache__"))
    for file in (file for pattern in COPIED for file in ROOT.glob(pattern)):
        (source / file.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        shutil.copy(file, source / file.relative_to(ROOT))
    for file in notebooks():
        write(source / file.relative_to(ROOT), nbformat.writes(as_page(file)))
    for file in (ROOT / "evakeras").glob("[a-z]*.py"):
        write(source / "api" / f"{file.stem}.md", reference(file.stem))
    cut_readme(source)


def cut_readme(source):
    """Pages from the sections of the README; its first words and its table of sessions for those of docs/."""
    readme = one_line(without_block((ROOT / "README.md").read_text(encoding="utf-8")))
    readme = re.sub(r"\bevakeras/(\w+)\.py\)", r"api/\1.md)", readme)
    shown = parts_from(readme)
    for name, (heading, *more) in PAGES.items():
        first = re.sub(r"^#(#+ )", r"\1", section(readme, heading), flags=re.M)  # its heading is the page's
        parts = [first, *(section(readme, heading) for heading in more)]
        parts += [toctree(["api/*"], ":hidden:", ":glob:")] * (name == "helpers.md")
        write(source / name, "\n\n".join(parts))
    for name in ("index.md", "solutions.md"):
        text = (source / name).read_text(encoding="utf-8")
        for comment, part in shown.items():
            text = text.replace(f"<!-- {comment} -->", part.strip())
        write(source / name, text)


def one_line(text):
    """Prose whose descriptions of pictures are not broken: MyST would lose the space at the end of a line."""
    return re.sub(r"!\[[^]]*\]", lambda match: match[0].replace("\n", " "), text)


def write(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def section(readme, heading):
    """A section of the README, with its heading."""
    found = re.search(rf"^## {heading}\n.*?(?=^## |\Z)", readme, re.M | re.S)
    if not found:
        sys.exit(f'README.md has no section "## {heading}", which the site shows.')
    return found[0].strip()


def parts_from(readme):
    """What stands in place of each comment in the pages of docs/."""
    rows = ROW.findall(section(readme, "The course"))
    if [f"notebooks/{file.stem}" for file in sessions()] != [page for _, page, *_ in rows]:
        sys.exit('The table in README.md under "## The course" does not list the sessions of notebooks/.')
    intro = readme.partition("\n")[2].partition("\n## ")[0]
    cards = "\n".join(card(file, *row) for file, row in zip(sessions(), rows, strict=True))
    return {
        "intro": re.sub(r"!\[[^]]*\]\([^)]*\)", "", intro),  # the picture comes again in a card
        "cards": f":::::{{container}} sessions\n{cards}\n:::::",
        "sessions": toctree(
            [f"{name} <{page}>" for name, page, *_ in rows], ":hidden:", ":caption: Sessions"
        ),
        "solutions": toctree([f"{name} <{page.replace('/', '/solutions/')}>" for name, page, *_ in rows]),
    }


def toctree(pages, *options):
    return "\n".join(["```{toctree}", *options, "", *pages, "```"])


def card(file, name, page, learn, quick, full):
    first = one_line(nbformat.read(file, as_version=4).cells[0].source)
    alt = re.search(r"!\[([^]]*)\]", first)[1]
    return f"""::::{{container}} session
![{alt}](assets/{file.stem[:2]}-cover.png)

[{name}]({page}.ipynb)

{learn[0].upper()}{learn[1:]}.

{{.time}}
Quick: {quick}. Full: {full}.
::::"""


def reference(name):
    """The page of one helper file, made from its docstrings."""
    return f"""# {name}

```{{eval-rst}}
.. automodule:: evakeras.{name}
   :members:
```

The file itself, to copy: {{download}}`{name}.py <../evakeras/{name}.py>`.
"""


def as_page(file):
    """The notebook in `file` with links to its neighbours, and figures that say what they show."""
    notebook = described(nbformat.read(file, as_version=4))
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = linked(without_block(cell.source), file)
            cell.pop("attachments", None)
        for output in cell.get("outputs", []):
            about = output.get("metadata", {}).get("image/png", {})
            if "alt" in about:
                cell.metadata["mystnb"] = {"image": {"alt": about["alt"]}}
    if file in sessions():
        first = notebook.cells[0]
        first.source = first.source.replace(f"# {title(notebook)}", f"# {file.stem[:2]} {title(notebook)}")
    return notebook


def linked(text, file):
    """Prose whose names of pages and numbers of sessions are links, and whose cover is a file."""

    def link(words, target):
        if target == file or not target.is_file():
            return words
        return f"[{words}]({os.path.relpath(target, file.parent)})"

    def named(page):
        return (ROOT if page.endswith(".md") else ROOT / "notebooks") / page

    text = one_line(text).replace(COVER, f"../assets/{file.stem[:2]}-cover.png")
    text = NAMED.sub(lambda match: link(match[0], named(match[1])), text)
    numbered = {path.stem[:2]: path for path in sessions()}
    return SESSION.sub(lambda match: link(match[0], numbered.get(match[1], file)), text)


if __name__ == "__main__":
    main()
