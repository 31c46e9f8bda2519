"""Notebooks for Colab: complete in themselves, word for word, and careful with what is there already."""

import ast
import asyncio
import importlib
import re
import shutil
import sys

import nbformat
import pytest
from conftest import ROOT, python, read_notebook
from hypothesis import example, given
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

pytestmark = pytest.mark.usefixtures("tf")
URL = "https://github.com/example/evakeras"
PNG = "iVBORw0KGgoAAAANSUhEUg=="
HOSTILE = [
    'x = """three \'\'\' quotes"""\n',
    "path = 'C:\\new\\table'  # \\N{BULLET} \\u2028 \\\n",
    "r'''\\'''\n",
    "''' + open('x').read() + r'''\n",
    "%pip install x\n!ls\n%%bash\n?help\n>>> 1 + 1\nIn [1]: x\n",
    "é × – 漢字 😀 \u2028 \u0085 \x0c \ufeff\n",
    "ends in a backslash\\",
    "ends in a quote'",
    "two\r\nline ends\rof others\n",
    "tab\tand\x00null\n",
    "{name} %s $x #@param\n",
    "",
]


@pytest.fixture(scope="module")
def colab():
    """The two tools, imported as they import each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")
        import badges
        import colab

        colab.badges = badges
        yield colab
        for name in ("badges", "colab"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def ours(colab):
    """Path → the notebook made for Colab, of every notebook of the project."""
    return {file: colab.alone(file) for file in colab.notebooks()}


@pytest.fixture
def project(tmp_path):
    """A small project with one session, its solution and two helpers."""
    root = tmp_path / "project"
    (root / "notebooks" / "solutions").mkdir(parents=True)
    (root / "evakeras").mkdir()
    for name in ("__init__.py", "evaluate.py", "data.py"):
        shutil.copy(ROOT / "evakeras" / name, root / "evakeras")
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "README.md").write_text("# évakeras\n\nText.\n", encoding="utf-8")
    picture = new_markdown_cell("# One\n\nPromise.\n\n![Dots](attachment:cover.png)")
    picture.attachments = {"cover.png": {"image/png": PNG}}
    code = new_code_cell("from evakeras import evaluate\nprint(evaluate.summarize([1, 2, 3]).mean)")
    code.execution_count, code.outputs = 1, [nbformat.v4.new_output("stream", text="2.0\n")]
    links = new_markdown_cell(
        "[the readme](../README.md), [a place](#one), `solutions/01_one.ipynb`, [Keras](https://keras.io/a),\n"
        "[solution](solutions/01_one.ipynb#two) and $[0](1)$"
    )
    nbformat.write(new_notebook(cells=[picture, code, links]), root / "notebooks" / "01_one.ipynb")
    solution = new_notebook(cells=[new_markdown_cell("# Solutions: one"), new_code_cell("1 + 1")])
    nbformat.write(solution, root / "notebooks" / "solutions" / "01_one.ipynb")
    return root


def with_address(root, url=URL):
    """Give the project an address, in place of any that it has."""
    text = re.sub(r"\n\[project\.urls\]\n.*\n", "", (root / "pyproject.toml").read_text())
    (root / "pyproject.toml").write_text(f'{text}\n[project.urls]\nRepository = "{url}"\n')


def run(code, folder, **variables):
    """Run code in a fresh Python in a folder, without this checkout; returns what it printed."""
    done = python("-c", code, cwd=folder, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def executed(cell, folder, then="", block="", **variables):
    """Execute a notebook's cell as IPython would, where no evakeras is installed and no `block` either."""
    (folder / "cell.py").write_bytes(TransformerManager().transform_cell(cell.source).encode())
    hide = f"""
import importlib.abc, os, sys
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in {block.split()!r}:
            raise ModuleNotFoundError(name)
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder)]
sys.path = [place for place in sys.path if os.path.abspath(place) != {str(ROOT)!r}]
real = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in {block.split()!r} else real(name)
exec(compile(open("cell.py", "rb").read(), "cell.py", "exec"))
"""
    return run("import importlib.util\n" + hide + then, folder, **variables)


class TestImports:
    @pytest.mark.parametrize(
        ("source", "wanted"),
        [
            ("from evakeras import data, models as m", "__init__ data models"),
            ("import evakeras.train", "__init__ train"),
            ("import evakeras.train as t, numpy", "__init__ train"),
            ("from evakeras.data import load_mnist", "__init__ data"),
            ("from evakeras import __version__", "__init__"),
            ("import evakeras", "__init__"),
            ("def f():\n    from evakeras import plots\n    return plots", "__init__ plots"),
            ("%pip install x\nfrom evakeras import plots", "__init__ plots"),
            ("if True:\n    !ls\n    import evakeras.plots", "__init__ plots"),
            ("import evakeras_other, data\nfrom . import models", ""),
            ("# from evakeras import data\ntext = 'from evakeras import data'", ""),
        ],
    )
    def test_are_found(self, colab, source, wanted):
        notebook = new_notebook(cells=[new_markdown_cell("from evakeras import data"), new_code_cell(source)])
        assert colab.imported_helpers(notebook, ROOT / "evakeras") == wanted.split()

    def test_of_several_cells_are_put_together(self, colab):
        cells = [new_code_cell("from evakeras import plots"), new_code_cell("from evakeras import data")]
        found = colab.imported_helpers(new_notebook(cells=cells), ROOT / "evakeras")
        assert found == ["__init__", "data", "plots"]

    def test_none_gives_no_cell(self, colab, project):
        file = project / "notebooks" / "solutions" / "01_one.ipynb"
        assert [cell.cell_type for cell in colab.alone(file, root=project).cells] == ["markdown", "code"]


class TestText:
    @pytest.mark.parametrize("text", HOSTILE)
    def test_survives_the_cell(self, colab, text):
        source = f"text = (\n{colab.quoted(text)}\n)"
        assert self.value(f"#@title X\n# y\n{source}") == text

    @given(st.text(alphabet=st.characters(codec="utf-8")))
    @example("'" * 7 + "\\" * 3)
    def test_of_any_kind_survives(self, colab, text):
        assert ast.literal_eval(colab.quoted(text)) == text == ast.literal_eval(colab.escaped(text))

    @staticmethod
    def value(source):
        saved = nbformat.reads(nbformat.writes(new_notebook(cells=[new_code_cell(source)])), as_version=4)
        names = {}
        exec(TransformerManager().transform_cell(saved.cells[0].source), names)
        return names["text"]

    def test_of_the_helpers_is_readable_and_exact(self, colab):
        for file in (ROOT / "evakeras").glob("*.py"):
            text = colab.read(file)
            assert (
                self.value(f"#@title X\n# y\ntext = (\n{colab.quoted(text)}\n)").encode() == file.read_bytes()
            )
            assert text in colab.quoted(text)


class TestCell:
    @pytest.fixture
    def cell(self, colab, project):
        return colab.alone(project / "notebooks" / "01_one.ipynb", root=project).cells[1]

    def test_is_hidden_and_named(self, cell):
        assert cell.source.startswith("#@title Run this first: it writes __init__.py evaluate.py ")
        assert cell.metadata == {"cellView": "form", "jupyter": {"source_hidden": True}}
        assert "data.py" not in cell.source and cell.outputs == [] and cell.execution_count is None

    def test_writes_the_helpers_word_for_word_and_they_import(self, cell, tmp_path):
        then = "from evakeras import evaluate; print(evaluate.__file__, evaluate.summarize([1, 2, 3]).mean)"
        written, used = executed(cell, tmp_path, then).splitlines()
        assert written == "Written into the folder evakeras: __init__.py evaluate.py"
        assert used == f"{tmp_path / 'evakeras' / 'evaluate.py'} 2.0"
        for name in ("__init__.py", "evaluate.py"):
            assert (tmp_path / "evakeras" / name).read_bytes() == (ROOT / "evakeras" / name).read_bytes()

    def test_writes_hostile_helpers(self, colab, project, tmp_path):
        for number, text in enumerate(HOSTILE):
            (project / "evakeras" / f"h{number}.py").write_bytes(text.encode())
        names = ["__init__", *(f"h{number}" for number in range(len(HOSTILE)))]
        executed(colab.helper_cell(names, project), tmp_path)
        for number, text in enumerate(HOSTILE):
            assert (tmp_path / "evakeras" / f"h{number}.py").read_bytes() == text.encode()

    def test_stays_readable_for_the_helpers_that_there_are(self, ours):
        for notebook in ours.values():
            (source,) = (cell.source for cell in notebook.cells if cell.id == "helpers")
            assert source.count("\nr'''") >= 2 and "\n(\n" not in source
            assert TransformerManager().transform_cell(source) == f"{source}\n"

    def test_run_twice_changes_nothing_and_says_so(self, cell, tmp_path):
        executed(cell, tmp_path)
        before = {file: file.stat().st_mtime_ns for file in (tmp_path / "evakeras").glob("*.py")}
        again = executed(cell, tmp_path)
        assert again == f"evakeras is there already and was left as it is: {tmp_path / 'evakeras'}\n"
        assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "evakeras").glob("*.py")}

    def test_adds_what_another_session_did_not_need(self, colab, cell, tmp_path):
        executed(cell, tmp_path)
        other = colab.helper_cell(["__init__", "evaluate", "plots"])
        said = executed(other, tmp_path, "from evakeras import plots; print(plots.__name__)")
        assert said == "Written into the folder evakeras: plots.py\nevakeras.plots\n"

    def test_adds_it_also_while_evakeras_is_loaded(self, colab, cell, tmp_path):
        more = colab.helper_cell(["__init__", "plots"]).source
        (tmp_path / "more.py").write_text(more, encoding="utf-8")
        then = "exec(open('more.py', encoding='utf-8').read())\nfrom evakeras import plots"
        assert "Written into the folder evakeras: plots.py" in executed(cell, tmp_path, then)

    def test_leaves_an_edited_helper_alone(self, cell, tmp_path):
        executed(cell, tmp_path)
        edited = tmp_path / "evakeras" / "evaluate.py"
        edited.write_text("mine = 1\n")
        said = executed(cell, tmp_path)
        assert said.endswith("evakeras; not as in this notebook: evaluate.py\n") and "left as it is" in said
        assert edited.read_text() == "mine = 1\n"

    def test_names_an_edited_helper_also_when_it_adds_others(self, colab, cell, tmp_path):
        executed(cell, tmp_path)
        (tmp_path / "evakeras" / "evaluate.py").write_text("mine = 1\n")
        said = executed(colab.helper_cell(["__init__", "evaluate", "plots"]), tmp_path)
        assert said == "Written into the folder evakeras: plots.py; not as in this notebook: evaluate.py\n"

    def test_leaves_a_checkout_beside_the_notebook_alone(self, cell, tmp_path):
        (tmp_path / "evakeras").mkdir()
        (tmp_path / "evakeras" / "__init__.py").write_text("__version__ = '9'\n")
        said = executed(cell, tmp_path)
        assert said.count("\n") == 1 and "was left as it is" in said
        assert [file.name for file in (tmp_path / "evakeras").glob("*.*")] == ["__init__.py"]

    def test_leaves_an_installed_evakeras_alone(self, cell, tmp_path):
        installed, here = tmp_path / "site", tmp_path / "here"
        shutil.copytree(
            ROOT / "evakeras", installed / "evakeras", ignore=shutil.ignore_patterns("__pycache__")
        )
        here.mkdir()
        said = executed(cell, here, PYTHONPATH=str(installed))
        assert said == f"evakeras is there already and was left as it is: {installed / 'evakeras'}\n"
        assert not (here / "evakeras").exists()

    def test_fills_a_folder_that_is_no_package(self, cell, tmp_path):
        (tmp_path / "evakeras").mkdir()
        assert "Written into" in executed(cell, tmp_path)

    def test_names_an_old_keras_in_one_line(self, cell, tmp_path):
        info = tmp_path / "site" / "keras-3.4.1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: keras\nVersion: 3.4.1\n")
        said = executed(cell, tmp_path, PYTHONPATH=str(info.parent))
        assert said.count("\n") == 1 and "keras 3.4.1 (needs 3.10 or newer)" in said

    def test_names_what_to_install_in_one_line(self, cell, tmp_path):
        said = executed(cell, tmp_path, block="filelock sklearn")
        assert re.fullmatch(
            r'Not installed .* %pip install "filelock>=[\d.]+" "scikit-learn>=[\d.]+"\n', said
        )
        assert (tmp_path / "evakeras" / "evaluate.py").is_file()

    def test_knows_every_required_package_by_its_module(self, colab):
        needed = {"PIL", "filelock", "keras", "matplotlib", "numpy", "scipy", "sklearn", "tensorflow", "tqdm"}
        assert set(colab.packages()) == needed
        assert colab.packages()["tensorflow"].startswith("tensorflow>=")


class TestNotebooks:
    def test_are_all_valid_small_and_bring_their_helpers(self, ours):
        for file, notebook in ours.items():
            nbformat.validate(notebook)
            assert len(nbformat.writes(notebook)) < 2_000_000, file
            cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
            assert cells[0].id == "helpers" and len({cell.id for cell in notebook.cells}) == len(
                notebook.cells
            )

    def test_keep_code_and_outputs(self, ours):
        for file, notebook in ours.items():
            before = [cell for cell in read_notebook(file).cells if cell.cell_type == "code"]
            assert [cell for cell in notebook.cells if cell.cell_type == "code"][1:] == before

    def test_keep_their_pictures(self, ours):
        for file, notebook in ours.items():
            attached = read_notebook(file).cells[0].get("attachments", {})
            text = notebook.cells[0].source
            assert text.count("](data:image/png;base64,iVBOR") == len(attached)
            assert all(bundle["image/png"].replace("\n", "") in text for bundle in attached.values())

    def test_lead_to_no_other_file(self, ours):
        target = re.compile(r"\]\(([^)\s]+)|^\[[^]]+\]:\s*(\S+)|(?:href|src)=[\"']?([^\"'\s>]+)", re.M)
        for file, notebook in ours.items():
            for cell in notebook.cells:
                assert "attachments" not in cell
                if cell.cell_type == "markdown":
                    links = ["".join(groups) for groups in target.findall(cell.source)]
                    dead = [link[:80] for link in links if not link.startswith(("https://", "data:", "#"))]
                    assert [link for link in dead if (file.parent / link).exists()] == [], file

    def test_are_written_by_the_tool(self, tmp_path, colab):
        done = python(ROOT / "tools" / "colab.py", tmp_path / "out", cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("22 notebooks")
        names = {file.relative_to(ROOT / "notebooks") for file in colab.notebooks()}
        assert {file.relative_to(tmp_path / "out") for file in (tmp_path / "out").rglob("*.ipynb")} == names


class TestLinks:
    def test_become_text_without_an_address(self, colab, project):
        text = colab.alone(project / "notebooks" / "01_one.ipynb", root=project).cells[-1].source
        assert text == (
            "the readme, [a place](#one), `solutions/01_one.ipynb`, [Keras](https://keras.io/a),\n"
            "solution and $[0](1)$"
        )

    def test_lead_to_the_repository_with_one(self, colab, project):
        text = colab.alone(project / "notebooks" / "01_one.ipynb", URL, project).cells[-1].source
        solution = f"{URL}/blob/main/notebooks/solutions/01_one.ipynb"
        assert text == (
            f"[the readme]({URL}/blob/main/README.md), [a place](#one), "
            f"[`solutions/01_one.ipynb`]({solution}), [Keras](https://keras.io/a),\n"
            f"[solution]({solution}) and $[0](1)$"
        )


class TestBadges:
    @pytest.fixture
    def tool(self, colab, capsys):
        """Runs the tool on a project; returns its exit code and what it printed."""

        def run(root):
            code = colab.badges.main([str(root)])
            return code, capsys.readouterr().out

        return run

    @staticmethod
    def files(root):
        return {file: file.read_bytes() for file in root.rglob("*") if file.suffix in (".md", ".ipynb")}

    def test_without_an_address_nothing_changes(self, project):
        text = (project / "pyproject.toml").read_text()
        (project / "pyproject.toml").write_text(re.sub(r"\n\[project\.urls\]\n.*\n", "", text))
        before = self.files(project)
        done = python(ROOT / "tools" / "badges.py", project, cwd=ROOT)
        assert done.returncode == 1 and done.stdout.startswith("No badges: "), done.stderr
        assert self.files(project) == before

    @pytest.mark.parametrize("url", ["https://example.com/a/b", "git@github.com:a/b", "https://github.com/a"])
    def test_another_kind_of_address_is_an_error(self, tool, project, url):
        with_address(project, url)
        before = self.files(project)
        with pytest.raises(SystemExit, match=rf"{re.escape(url)}.*OWNER/NAME"):
            tool(project)
        assert self.files(project) == before

    def test_come_into_every_notebook_and_the_readme(self, tool, project):
        with_address(project)
        code, said = tool(project)
        assert code == 0 and said.startswith("3 files changed")
        for path in ("notebooks/01_one.ipynb", "notebooks/solutions/01_one.ipynb"):
            notebook = nbformat.read(project / path, 4)
            nbformat.validate(notebook)
            first = notebook.cells[0].source
            assert f"https://colab.research.google.com/github/example/evakeras/blob/main/{path}" in first
            assert f"%pip install --quiet git+{URL}`" in first
        readme = (project / "README.md").read_text(encoding="utf-8")
        assert readme.startswith("# évakeras\n\n<!-- colab -->\n<a href=") and readme.endswith("\n\nText.\n")
        assert f"pip install git+{URL}`" in readme

    def test_leave_the_rest_of_the_first_cell_as_it_was(self, tool, colab, project):
        file = project / "notebooks" / "01_one.ipynb"
        before = nbformat.read(file, 4)
        with_address(project)
        tool(project)
        after = nbformat.read(file, 4)
        assert after.cells[0].attachments == before.cells[0].attachments
        assert colab.without_block(after.cells[0].source) == before.cells[0].source
        assert after.cells[1:] == before.cells[1:]

    def test_twice_changes_nothing(self, tool, project):
        with_address(project, f"{URL}.git/")
        tool(project)
        before = self.files(project)
        assert tool(project)[1].startswith("0 files changed")
        assert self.files(project) == before
        assert all(text.count(b"<!-- colab -->") == 1 for text in before.values())

    def test_follow_a_changed_address(self, tool, project):
        with_address(project)
        tool(project)
        with_address(project, "https://github.com/example/moved")
        assert tool(project)[1].startswith("3 files changed")
        for text in self.files(project).values():
            assert b"example/evakeras" not in text and text.count(b"<!-- colab -->") == 1

    def test_fill_the_place_that_the_readme_keeps_for_them(self, tool, project):
        with_address(project)
        (project / "README.md").write_text("# A\n\nB\n\n<!-- colab -->\n<!-- end colab -->\n\nC\n")
        tool(project)
        text = (project / "README.md").read_text()
        assert text.startswith("# A\n\nB\n\n<!-- colab -->\n<a ")
        assert text.endswith("<!-- end colab -->\n\nC\n")

    def test_are_not_in_the_notebooks_for_colab(self, tool, colab, project):
        file = project / "notebooks" / "01_one.ipynb"
        before = colab.alone(file, URL, project).cells[0].source
        with_address(project)
        tool(project)
        assert colab.alone(file, URL, project).cells[0].source == before

    def test_do_not_count_as_pictures_of_the_session(self, tool, project):
        with_address(project)
        tool(project)
        text = nbformat.read(project / "notebooks" / "01_one.ipynb", 4).cells[0].source
        assert re.findall(r"!\[.*?\]\((.+?)\)", text, re.S) == ["attachment:cover.png"]

    def test_of_this_project_are_those_of_its_address(self, colab):
        url = colab.repository()
        for file in colab.notebooks():
            text = read_notebook(file).cells[0].source
            assert text.count("<!-- colab -->") == bool(url), f"{file.name}: make badges"
            assert not url or f"git+{url}`" in text, f"{file.name}: make badges"


class TestRunning:
    def test_alone_tells_what_passes_and_what_lacks_its_helpers(self, colab, project, tmp_path):
        session, folder = project / "notebooks" / "01_one.ipynb", tmp_path / "made"
        (folder / "solutions").mkdir(parents=True)
        nbformat.write(colab.alone(session, root=project), folder / "01_good.ipynb")
        shutil.copy(session, folder / "solutions" / "01_lacks.ipynb")
        shutil.copy(session, folder / "02_not_asked_for.ipynb")
        done = python(ROOT / "tools" / "run_colab.py", folder, "--only", "01", cwd=ROOT)
        assert done.returncode == 1, done.stderr
        first, second, *reason, last = done.stdout.splitlines()
        assert re.fullmatch(r"01_good \d+ s", first)
        assert second.startswith("solutions/01_lacks FAILED after")
        assert "No module named 'evakeras'" in "".join(reason)
        assert last.startswith("2 notebooks") and last.endswith("failed: solutions/01_lacks")

    def test_one_that_hangs_is_stopped(self, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(ROOT / "tools")
        run_colab = importlib.import_module("run_colab")
        file = tmp_path / "01_hangs.ipynb"
        nbformat.write(new_notebook(cells=[new_code_cell("import time; time.sleep(600)")]), file)
        with pytest.raises(SystemExit, match="still running after 3 s"):
            asyncio.run(run_colab.execute(file, tmp_path, 3))

    def test_needs_the_notebooks_to_be_made(self, tmp_path):
        done = python(ROOT / "tools" / "run_colab.py", tmp_path, cwd=ROOT)
        assert done.returncode == 1 and "make colab" in done.stderr
