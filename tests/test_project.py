"""What holds between the files of the project: requirements, notebooks, results."""

import json
import re

import nbformat
import pytest
from conftest import NOTEBOOKS, ROOT, SESSIONS, pyproject, python, read_notebook

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)


def project():
    return pyproject()["project"]


def test_conda_environment_asks_for_the_same_as_pyproject():
    extras = project()["optional-dependencies"]
    wanted = {*project()["dependencies"], *extras["notebooks"], "tensorflow>=2.19", "-e ."}
    assert any(requirement.startswith("tensorflow>=2.19;") for requirement in extras["cpu"])
    assert extras["gpu"] == ["tensorflow[and-cuda]>=2.19"]
    lines = (ROOT / "environment.yml").read_text().splitlines()
    listed = {line.strip()[2:] for line in lines if line.startswith("      - ")}
    assert listed == wanted
    assert any(line.startswith(f"  - python{project()['requires-python']},<") for line in lines)


def test_constraints_pin_every_requirement_and_name_no_host():
    pinned = {}
    text = (ROOT / "constraints.txt").read_text()
    for line in text.splitlines():
        if not line.startswith("#"):
            name, version = re.match(r"([a-z0-9-]+)==([0-9.]+)", line).groups()
            pinned[name] = version
    extras = project()["optional-dependencies"]
    named = [extras[name] for name in ("cpu", "notebooks", "test", "site", "browser")]
    for requirement in [*project()["dependencies"], *(line for lines in named for line in lines)]:
        assert re.match(r"[a-z0-9-]+", requirement)[0] in pinned
    assert "://" not in text


def test_the_readme_has_examples():
    assert len(EXAMPLES) >= 4


@pytest.mark.usefixtures("tf")
@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_of_the_readme_runs_alone(example, capsys):
    exec(example, {})
    assert len(capsys.readouterr().out) > 10


def test_committed_results_are_those_of_the_committed_notebooks():
    done = python(ROOT / "tools" / "results.py", "--check", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: f"{file.parent.name}/{file.stem}")
class TestNotebook:
    def test_was_saved_from_one_clean_run_without_errors(self, file):
        code = [cell for cell in read_notebook(file).cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        assert not [out for cell in code for out in cell.outputs if out.output_type == "error"]

    def test_is_small_and_clean(self, file):
        notebook = read_notebook(file)
        nbformat.validate(notebook)
        assert file.stat().st_size <= 1_500_000
        assert set(notebook.metadata) == {"kernelspec", "language_info"}
        assert notebook.metadata.kernelspec.name == "python3"
        text = file.read_text()
        assert "/home/" not in text and "image/svg" not in text and "widget" not in text

    def test_shows_no_bare_object_and_no_log_lines(self, file):
        for cell in read_notebook(file).cells:
            for output in cell.get("outputs", []):
                shown = json.dumps(output.get("data", {}).get("text/plain", "")) + output.get("text", "")
                assert not re.search(r"<keras|<Axes|\[<matplotlib|History at 0x|^[IWE]\d{4} ", shown, re.M)


def numbers(text):
    """Figures in a text, written one way: 1,234.50 as 1234.5."""
    found = (figure.replace(",", "") for figure in re.findall(r"\d[\d,]*(?:\.\d+)?", text))
    return {figure.rstrip("0").rstrip(".") if "." in figure else figure for figure in found}


def printed_or_set(notebook):
    """Every figure that stands in the code of a notebook or in what it printed."""
    found = set()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shown = [output.get("text", "") for output in cell.outputs]
            data = [output.get("data", {}) for output in cell.outputs]
            shown += [text for each in data for kind, text in each.items() if kind.startswith("text/")]
            found |= numbers("\n".join([cell.source, *shown]))
    return found


# Figures in prose that no code of the notebook prints: words of the notes, settings, examples.
QUOTED = {
    "02_building_blocks": {"80", "0.03"},
    "03_mnist_progression": {"80"},
    "04_normalizing_images": {"0.010656365", "1.0107679", "3.4560264", "0.9999998", "4.3"},
    "09_advanced_augmentation": {"70", "0.3"},
}


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_figure_in_prose_is_printed_by_code_or_quoted(file):
    notebook = read_notebook(file)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    prose = re.sub(r"\$[^$]*\$|`[^`]*`|!\[.*?\]|\]\([^)]*\)", "", prose, flags=re.S)
    typed = re.findall(r"(?<![\w.])\d[\d,]*\.\d+|(?<![\w.,])\d[\d,]*(?=\s*%)", prose)
    known = printed_or_set(notebook) | (set() if "solutions" in file.parts else QUOTED.get(file.stem, set()))
    assert numbers(" ".join(typed)) <= known


@pytest.mark.parametrize("file", SESSIONS, ids=lambda file: file.stem)
class TestSession:
    def test_has_one_title_described_pictures_exercises_and_solutions(self, file):
        prose = [cell.source for cell in read_notebook(file).cells if cell.cell_type == "markdown"]
        assert len(re.findall(r"^# ", "\n".join(prose), re.M)) == 1
        for alt, path in re.findall(r"!\[(.*?)\]\((.+?)\)", "\n".join(prose), re.S):
            assert len(alt) > 40 and path == "attachment:cover.png"
            assert read_notebook(file).cells[0].attachments["cover.png"]["image/png"]
        assert "## Exercises" in "\n".join(prose) and "## References" in "\n".join(prose)
        assert (file.parent / "solutions" / file.name).is_file()

    def test_folds_a_hint_under_each_exercise_and_solves_each(self, file):
        text = "\n".join(cell.source for cell in read_notebook(file).cells if cell.cell_type == "markdown")
        exercises = text.split("## Exercises\n")[1].split("\nSolutions: ")[0]
        listed = re.findall(r"^(\d)\. ", exercises, re.M)
        assert 3 <= len(listed) <= 5 and listed == list("12345"[: len(listed)])
        hint = r"\n\n   <details><summary>Hint</summary>\n\n(?:   .+\n)+\n   </details>\n"
        for number, exercise in zip(listed, re.split(r"^\d\. ", exercises, flags=re.M)[1:], strict=True):
            assert len(re.findall(hint, exercise)) == 1, f"exercise {number} needs one folded hint"
        solutions = read_notebook(file.parent / "solutions" / file.name).cells
        prose = "\n".join(cell.source for cell in solutions if cell.cell_type == "markdown")
        assert re.findall(r"^## (?:Exercise )?(\d)[.: ]", prose, re.M) == listed

    def test_shows_each_of_its_claims_in_a_tagged_cell(self, file):
        wanted = {
            "01": [*(f"C{n:02}" for n in range(1, 9)), "C19", "C21"],
            "02": [*(f"C{n:02}" for n in range(9, 19)), "C20"],
            "03": [f"P{n:02}" for n in range(1, 13)],
            "04": [f"N{n:02}" for n in range(1, 9)],
            "05": [f"B{n:02}" for n in range(1, 14)],
            "06": [f"R{n:02}" for n in range(1, 10)],
            "07": ["R10"],
            "08": [f"A{n:02}" for n in range(1, 4)],
            "09": [f"A{n:02}" for n in range(4, 10)],
            "10": ["K01", "K02", *(f"V{n:02}" for n in range(1, 6))],
            "11": [f"O{n:02}" for n in range(1, 11)],
        }
        cells = read_notebook(file).cells
        tags = {tag for cell in cells if cell.cell_type == "code" for tag in cell.metadata.get("tags", [])}
        prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        for claim in wanted[file.name[:2]]:
            assert f"claim-{claim}" in tags
            assert re.search(rf"\*\*[^*]*{claim}[^*]*:", prose), f"no verdict on {claim}"
