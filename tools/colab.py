"""Write notebooks that need no other file: upload one to Colab, run it from top to bottom.

python tools/colab.py dist/colab

Before its first code cell, each gets one that writes those helper files which the notebook imports. Outputs
stay. Pictures are written out in the text, for Colab shows no attachments. Links to files of this project
become links to its repository, or plain text where pyproject.toml knows none (see badges.py).
"""

import argparse
import ast
import inspect
import re
import sys
from pathlib import Path

import nbformat
from badges import BRANCH, project, repository, without_block
from IPython.core.inputtransformer2 import TransformerManager
from listing import ROOT, notebooks

IMPORTED_AS = {"pillow": "PIL", "scikit-learn": "sklearn"}  # where the package is not called as its module
IN_COLAB = """

**In Colab:** run the next cell first; it writes the helpers beside this notebook. Without a GPU write
`QUICK = True` in the settings. What is kept in `runs/` is lost when Colab ends your session. `CLAIMS.md` is
in the course's repository, and the solutions are a notebook of their own."""
LINK = re.compile(r"(?<!!)\[([^]]*)\]\(([^)\s]+)\)")
NAMED = re.compile(r"(?<!\[)`([\w./-]+\.ipynb)`")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write them")
    folder, url, sizes = parser.parse_args().folder, repository(), []
    for file in notebooks():
        target = folder / file.relative_to(ROOT / "notebooks")
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(alone(file, url), target)
        sizes.append(target.stat().st_size)
    print(
        f"{len(sizes)} notebooks, each complete in itself and at most {max(sizes) / 1e6:.1f} MB, in {folder}/"
    )
    return 0


def alone(file, url=None, root=ROOT):
    """The notebook in `file`, changed so that it needs no other file of the project."""
    notebook = nbformat.read(file, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = relinked(without_block(cell.source), file, url, root)
            write_out_pictures(cell)
    helpers = imported_helpers(notebook, root / "evakeras")
    if helpers:
        first = [cell.cell_type for cell in notebook.cells].index("code")
        notebook.cells.insert(first, helper_cell(helpers, root))
        notebook.cells[0].source += IN_COLAB
    nbformat.validate(notebook)
    return notebook


def relinked(text, file, url, root):
    """Markdown whose links to files of the project, and names of notebooks, do not need those files."""

    def link(match):
        words, target = match.groups()
        place = (file.parent / target.partition("#")[0]).resolve()
        if not place.is_file():
            return match[0]
        return f"[{words}]({url}/blob/{BRANCH}/{place.relative_to(root).as_posix()})" if url else words

    named = NAMED.sub(r"[`\1`](\1)", text) if url else text
    return LINK.sub(link, named)


def write_out_pictures(cell):
    """Put the attachments of a cell into its text."""
    for name, picture in cell.pop("attachments", {}).items():
        for kind, data in picture.items():
            uri = f"data:{kind};base64,{data.replace(chr(10), '')}"
            cell.source = cell.source.replace(f"(attachment:{name})", f"({uri})")


def imported_helpers(notebook, package):
    """Names of the files of the package that the notebook's imports need, at whatever place these stand."""
    magics = TransformerManager()  # turns %pip and the like into Python
    found = set()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for node in ast.walk(ast.parse(magics.transform_cell(cell.source))):
                found |= helpers_of(node)
    return sorted(name for name in found if (package / f"{name}.py").is_file())


def helpers_of(node):
    """What may be helpers among the names in an import statement; with any comes `__init__`."""
    names = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    parts = [name.split(".") for name in names]
    return {name for part in parts if part[0] == "evakeras" for name in ("__init__", *part[1:2])}


def helper_cell(helpers, root=ROOT):
    """The code cell that writes the helpers beside the notebook."""
    texts = {f"{name}.py": read(root / "evakeras" / f"{name}.py") for name in helpers}
    source = helper_source(texts, packages(root), quoted)
    if TransformerManager().transform_cell(source) != f"{source}\n":  # IPython would strip a prompt in it
        source = helper_source(texts, packages(root), escaped)
    hidden = {"cellView": "form", "jupyter": {"source_hidden": True}}  # in Colab, in JupyterLab
    return nbformat.v4.new_code_cell(source, id="helpers", metadata=hidden)


def helper_source(texts, packages, literal):
    # each text at the start of a line: elsewhere IPython takes the >>> of its examples for pasted prompts
    files = "".join(f"{name!r}:\n{literal(text)},\n" for name, text in texts.items())
    needs = "".join(f"{module!r}: {wanted!r},\n" for module, wanted in packages.items())
    return (
        f"#@title Run this first: it writes {' '.join(texts)} into a folder beside this notebook\n"
        "# They stand below word for word. Nothing is installed.\n"
        f"{inspect.getsource(write_helpers)}\n\nwrite_helpers({{\n{files}}}, {{\n{needs}}})"
    )


def read(file):
    """The text of a file to the letter, line ends included."""
    return file.read_bytes().decode("utf-8")


def quoted(text):
    """A Python literal of exactly this text, readable where its content allows that."""
    plain = f"r'''{text}'''"
    try:
        if ast.literal_eval(plain) == text:
            return plain
    except (SyntaxError, ValueError):
        pass
    return escaped(text)


def escaped(text):
    """The same, line by line and with escapes: for any content."""
    return "(\n" + "\n".join(map(repr, text.splitlines(keepends=True) or [""])) + "\n)"


def packages(root=ROOT):
    """Module → requirement of all that the helpers may import."""
    table = project(root)
    wanted = [*table["dependencies"], *table["optional-dependencies"]["cpu"]]
    wanted = {re.match(r"[\w-]+", line)[0]: line.split(";")[0].strip() for line in wanted}
    wanted.pop("tensorflow-cpu", None)  # the same module as tensorflow
    return {IMPORTED_AS.get(name, name): requirement for name, requirement in wanted.items()}


def write_helpers(files, packages):
    """Write the files into a folder evakeras here; never over what is there already."""
    import importlib.util
    from pathlib import Path

    found = importlib.util.find_spec("evakeras")
    folder = Path(found.origin).parent if found and found.origin else Path("evakeras")
    theirs = {name: (folder / name).read_bytes() for name in files if (folder / name).is_file()}
    absent = [name for name in files if name not in theirs]
    differ = [name for name in theirs if theirs[name] != files[name].encode()]
    beside = folder.resolve() == Path("evakeras").resolve()
    ours = beside and "__init__.py" not in differ  # else it is another's, or of another version
    if ours and absent:
        folder.mkdir(exist_ok=True)
        for name in absent:
            (folder / name).write_bytes(files[name].encode())
        importlib.invalidate_caches()

    import evakeras  # says so in one line where Keras or TensorFlow is too old

    lacking = [f'"{wanted}"' for module, wanted in packages.items() if not importlib.util.find_spec(module)]
    if lacking:
        print("Not installed here. In a cell of its own, run: %pip install", *lacking)
    elif not (ours and evakeras.unsupported()):
        done = f"evakeras is there already and was left as it is: {folder.resolve()}"
        if ours and absent:
            done = f"Written into the folder evakeras: {' '.join(absent)}"
        other = differ if ours else differ + absent
        print(done + (f"; not as in this notebook: {' '.join(other)}" if other else ""))


if __name__ == "__main__":
    sys.exit(main())
