"""What pages get that a notebook does not have; `tests/browse_site.py` looks at the whole site."""

import sys

import nbformat
import pytest
from conftest import NOTEBOOKS, ROOT, read_notebook

sys.path.insert(0, str(ROOT / "tools"))

course = pytest.importorskip("course", reason="pages need nbconvert and latex2mathml")


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_figure_is_described(file):
    for cell in course.described(read_notebook(file)).cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                assert len(output.metadata["image/png"]["alt"]) > 20


def test_a_description_is_made_of_the_words_that_are_drawn():
    code = 'ax.set(xlabel="epoch", ylabel="loss", title="It falls")\nax.legend(title="seed")'
    assert course.words_drawn(code) == "It falls. Axes: epoch; loss."
    assert (
        course.words_drawn('axes[0].set_title("before")\nplots.image_grid(x, titles=["a", "b"])')
        == "before; a, b. "
    )
    assert course.words_drawn("%matplotlib inline\nplt.show()") == ""


def test_a_description_that_is_there_stays():
    picture = nbformat.v4.new_output(
        "display_data", {"image/png": ""}, metadata={"image/png": {"alt": "A digit"}}
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[picture])])
    assert course.described(notebook).cells[0].outputs[0].metadata["image/png"]["alt"] == "A digit"


def test_the_page_of_a_notebook_describes_its_figures():
    page = course.page(read_notebook(NOTEBOOKS[10]))
    assert course.UNDESCRIBED not in page and "drawn step by step" in page


def test_equations_need_no_script():
    assert course.mathml(r"\frac12", display="block").startswith(
        '<math xmlns="http://www.w3.org/1998/Math/MathML"'
    )
    assert course.mathml("|w|").count('lspace="0" rspace="0">&#x0007C;') == 2


def test_links_between_pages():
    make_site = pytest.importorskip("make_site", reason="needs Sphinx: make site")
    session, solution = NOTEBOOKS[4], ROOT / "notebooks/solutions" / NOTEBOOKS[4].name
    text = f"As in session 03 and session 05. See `solutions/{session.name}`, `CLAIMS.md`, `no.ipynb`."
    linked = make_site.linked(text, session)
    assert "[session 03](03_mnist_progression.ipynb) and session 05." in linked  # that is this page
    assert f"[`solutions/{session.name}`](solutions/{session.name})" in linked
    assert "[`CLAIMS.md`](../CLAIMS.md), `no.ipynb`" in linked
    assert f"[`{session.name}`](../{session.name})" in make_site.linked(f"`{session.name}`", solution)


def test_the_readme_has_what_the_pages_take_from_it():
    make_site = pytest.importorskip("make_site", reason="needs Sphinx: make site")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(
        make_site.section(readme, heading) for headings in make_site.PAGES.values() for heading in headings
    )
    assert set(make_site.parts_from(readme)) == {"intro", "cards", "sessions", "solutions"}
    with pytest.raises(SystemExit, match='no section "## Nothing"'):
        make_site.section(readme, "Nothing")
