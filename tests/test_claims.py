"""The ledger of claims: complete, of one mind with the notebooks, and strict about what is missing."""

import importlib
import json
import re

import nbformat
import pytest
from conftest import ROOT, SESSIONS, read_notebook

LEDGER = json.loads((ROOT / "assets" / "claims.json").read_text(encoding="utf-8"))
HOW_MANY = {"C": 21, "P": 12, "N": 8, "B": 13, "R": 10, "A": 9, "K": 2, "V": 5, "O": 10}


@pytest.fixture
def claims(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    return importlib.import_module("claims")


def test_every_claim_of_the_notes_is_listed_once_in_order():
    wanted = [f"{letter}{n:02}" for letter, count in HOW_MANY.items() for n in range(1, count + 1)]
    assert [claim["id"] for claim in LEDGER] == wanted


def test_ledger_and_notebooks_are_of_one_mind(claims):
    """What the ledger calls wrong or not confirmed, the notebook does too; what simply holds is neither."""
    prose = ""
    for file in SESSIONS:
        cells = read_notebook(file).cells
        prose += "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown") + "\n\n"
    paragraphs = [claims.counted(text) for text in re.split(r"\n\n|\n- ", prose)]
    for claim in LEDGER:
        verdicts = [text for text in paragraphs if re.search(rf"\*\*[^*]*\b{claim['id']}\b[^*]*:", text)]
        first = [text.split(".")[0] for text in verdicts]
        wrong = [text for text in first if re.search("wrong|promises too much", text)]
        unconfirmed = [text for text in first if "not confirmed" in text]
        assert verdicts, claim["id"]
        if claim["verdict"] == "wrong":
            assert wrong, claim["id"]
        elif claim["verdict"] == "not confirmed":
            assert unconfirmed, claim["id"]
        elif claim["verdict"] == "holds":
            assert not wrong and not unconfirmed, claim["id"]


def test_no_measured_figure_is_typed_into_the_ledger():
    """A decimal in a claim is the notes' own; anywhere else it would be typed."""
    for claim in LEDGER:
        assert not re.search(r"\d\.\d", claim.get("but", "") + claim.get("shows", "")), claim["id"]


def project(
    folder, claim=None, tags=("claim-C01",), prose="## 2 A sum\n\n**C01: holds.**", printed="sum 6600\n"
):
    (folder / "assets").mkdir()
    (folder / "notebooks").mkdir()
    claim = {"id": "C01", "claim": "It sums.", "verdict": "holds", **(claim or {})}
    (folder / "assets" / "claims.json").write_text(json.dumps([claim]))
    cell = nbformat.v4.new_code_cell(
        "print()", outputs=[nbformat.v4.new_output("stream", text=printed)], metadata={"tags": list(tags)}
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(prose), cell])
    nbformat.write(notebook, folder / "notebooks" / "01_sums.ipynb")
    return folder


def test_figure_comes_from_the_output_and_the_link_leads_to_the_verdict(claims, tmp_path):
    text = claims.page(project(tmp_path, {"shows": "it is {}", "find": [r"sum (\d+)"]}))
    assert "| [C01](notebooks/01_sums.ipynb#2-a-sum) | It sums. | **holds** | it is 6600 |\n" in text
    assert "1 claims (one of them, V05, is a question of our own): 1 hold," in text


@pytest.mark.parametrize(
    ("claim", "others", "message"),
    [
        (
            {"shows": "it is {}", "find": [r"total (\d+)"]},
            {},
            "01_sums.ipynb prints nothing for C01 that fits",
        ),
        ({"shows": "it is {} of {}", "find": [r"sum (\d+)"]}, {}, "C01 has 1 patterns for 2 braces"),
        ({}, {}, "C01 has neither a printed figure nor a picture"),
        ({"verdict": "perhaps"}, {}, "the verdict on C01 is none of holds, holds if, wrong"),
        ({}, {"tags": ()}, "C01 is tagged in 0 sessions"),
        ({}, {"tags": ("claim-C01", "claim-C02")}, "lacks C02"),
        ({}, {"prose": "## 2 A sum"}, "01_sums.ipynb has no verdict on C01"),
    ],
)
def test_what_is_missing_is_named(claims, tmp_path, claim, others, message):
    with pytest.raises(SystemExit, match=re.escape(message)):
        claims.page(project(tmp_path, claim, **others))


def test_a_range_of_ids_counts_every_one(claims):
    assert claims.counted("P01–P03, N02") == "P01 P02 P03, N02"
