"""Bring what the committed notebooks measured into assets/results.json, the README and CLAIMS.md.

    python tools/results.py            write them
    python tools/results.py --check    only say whether anything would change

A notebook hands its results over in the output of a cell, under the type RESULTS; nothing is typed by hand.
"""

import argparse
import json
import re
import sys

import nbformat
from claims import page as claims_page
from listing import ROOT, sessions, write_whole

RESULTS = "application/vnd.evakeras.results+json"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where a file is out of date"
    )
    check = parser.parse_args().check
    stale = []
    for path, text in generated().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(path.relative_to(ROOT)))
        if not check:
            write_whole(path, text)
    print(
        f"{'out of date' if check else 'written'}: {', '.join(stale)}"
        if stale
        else "All results are up to date."
    )
    return 1 if check and stale else 0


def generated():
    """Path → text of every file that holds results."""
    results, tables = {}, {}
    for file in sessions():
        for data in outputs(file):
            results[data[RESULTS]["session"]] = data[RESULTS]
            tables[data[RESULTS]["session"]] = data["text/markdown"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for session, table in tables.items():
        readme = filled(readme, f"results {session}", table)
    return {
        ROOT / "assets" / "results.json": json.dumps(results, indent=1, ensure_ascii=False) + "\n",
        ROOT / "README.md": readme,
        ROOT / "CLAIMS.md": claims_page(),
    }


def outputs(file):
    """The outputs of a notebook that hold results of a full run on MNIST."""
    for cell in nbformat.read(file, as_version=4).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if RESULTS in data:
                made = data[RESULTS]["made"]
                if made["quick"] or made["data"] != "mnist":
                    raise SystemExit(
                        f"{file.name}: its results are not those of a full run on MNIST: make refresh"
                    )
                yield data


def filled(text, name, table):
    """`text` with `table` between the two comments that name it."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)"
    if not re.search(pattern, text, re.S):
        raise SystemExit(f"README.md has no <!-- {name} --> … <!-- end {name} --> to fill")
    return re.sub(pattern, lambda found: f"{found[1]}{table}\n{found[2]}", text, flags=re.S)


if __name__ == "__main__":
    sys.exit(main())
