"""Measure how evakeras compares, and say so: `make bench`.

    python benchmarks/run.py                      run every benchmark, write results.json and README.md
    python benchmarks/run.py augmentation         only that one; what is known of the others is kept
    python benchmarks/run.py --quick [--write]    shorter, and nothing is written unless told to

Each file here is a benchmark but those in `OTHERS`. Its docstring begins with what is compared. Its function
`rows(quick)` returns dicts of `what`, `baseline`, `ratios` (one for each repeat, above 1 where evakeras is
ahead), `ours`, `theirs` (medians) and their `unit`. One that cannot run raises an error that says why.
"""

import argparse
import datetime
import importlib
import json
import platform
import statistics
import sys
from pathlib import Path

from timing import cores

FOLDER = Path(__file__).resolve().parent
OTHERS = ("run", "timing", "gpu")
HEAD = """\
| what | compared with | ratio: median | min – max | evakeras | the other | unit |
|---|---|--:|--:|--:|--:|---|"""


def main(arguments=None, folder=FOLDER):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", help="benchmarks to run; all if none is named")
    parser.add_argument("--quick", action="store_true", help="shorter; writes nothing")
    parser.add_argument("--write", action="store_true", help="write also after --quick")
    options = parser.parse_args(arguments)
    results, failed = {}, False
    for name in options.names or sorted({file.stem for file in folder.glob("*.py")}.difference(OTHERS)):
        try:
            results[name] = measured(name, folder, options.quick)
            print(f"\n{name}: {results[name]['about']}\n\n{table(results[name]['rows'])}", flush=True)
        except Exception as error:  # one that cannot run must not hide the others
            print(f"{name} cannot run: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            failed = True
    if results and (options.write or not options.quick):
        write(results, folder)
    return int(failed)


def measured(name, folder, quick):
    """What a benchmark found, and on what."""
    sys.path.insert(0, str(folder))
    try:
        benchmark = importlib.import_module(name)
        found = benchmark.rows(quick)
    finally:
        sys.path.remove(str(folder))
    about = " ".join(benchmark.__doc__.split("\n\n")[0].split())
    return {"about": about, "quick": quick, **conditions(), "rows": found}


def conditions():
    packages = ("keras", "tensorflow", "numpy", "scipy")
    versions = {name: importlib.import_module(name).__version__ for name in packages}
    versions = {"python": platform.python_version(), **versions}
    machine = {"cores": cores(), "architecture": platform.machine(), "system": platform.system()}
    return {"date": datetime.date.today().isoformat(), "machine": machine, "versions": versions}


def table(rows):
    lines = [HEAD]
    for row in rows:
        ratios = row["ratios"]
        numbers = [f"{n:,.0f}" if n >= 100 else f"{n:.3g}" for n in (row["ours"], row["theirs"])]
        middle, ends = statistics.median(ratios), f"{min(ratios):.1f} – {max(ratios):.1f}"
        cells = [row["what"], row["baseline"], f"{middle:.1f}", ends, *numbers, row["unit"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write(results, folder):
    """Bring what was measured into results.json, and all that is there onto the page."""
    file = folder / "results.json"
    results = (json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}) | results
    write_whole(file, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    page = ["# Benchmarks", "Written by `make bench`; what is measured, and how, is at the top of each file."]
    for name, found in sorted(results.items()):
        on = ", ".join(f"{key} {value}" for key, value in found["versions"].items())
        machine = "{cores} cores, {architecture}, {system}".format(**found["machine"])
        repeats = min(len(row["ratios"]) for row in found["rows"])
        mode = "quick mode, " if found["quick"] else ""
        page += [f"## {name}", found["about"], table(found["rows"])]
        page += [f"{found['date']}: {mode}at least {repeats} repeats, on {machine}; {on}. [Code]({name}.py)"]
    file = folder / "gpu.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    page += [gpu_section(backend, found) for backend, found in sorted(known.items())]
    write_whole(folder / "README.md", "\n\n".join(page) + "\n")


def write_whole(file, text):
    """Write a file whole or not at all, should Ctrl-C come."""
    draft = file.with_name(f".{file.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)


def gpu_section(backend, found):
    """What `gpu.py` has measured."""
    lines = ["| model | batch | jit_compile | images/s: median | min – max | images in an epoch |"]
    lines.append("|---|--:|---|--:|--:|--:|")
    for row in found["rows"]:
        cells = [row["model"], f"{row['batch']:,}", "yes" if row["jit_compile"] else "no"]
        if "error" in row:
            cells += ["–", row["error"], "–"]
        else:
            ends = f"{min(row['speeds']):,.0f} – {max(row['speeds']):,.0f}"
            cells += [f"{row['median']:,.0f}", ends, f"{row['images']:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    on = ", ".join(f"{key} {value}" for key, value in found["versions"].items())
    mode = "quick mode, " if found["quick"] else ""
    head = f"## GPU: {backend} on {found['card']}"
    about = f"Images per second of `fit` on {found['images']}, with Keras on {backend}; nothing is compared."
    return "\n\n".join([head, about, "\n".join(lines), f"{found['date']}: {mode}{on}. [Code](gpu.py)"])


if __name__ == "__main__":
    sys.exit(main())
