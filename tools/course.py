"""Execute the session notebooks and leave them, with readable pages and an index, in a folder.

python tools/course.py build/course              quick mode, a few minutes
python tools/course.py --full build/full         full length, on MNIST
python tools/course.py --full --in-place …       and write the outputs back into notebooks/
"""

import argparse
import base64
import html
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
TENSORFLOW_LOG = re.compile(r"^(WARNING: All log messages before absl|[IWE]\d{4} ).*\n?", re.M)


def main():
    options = parse()
    os.environ["EVAKERAS_QUICK"] = "" if options.full else "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "EVAKERAS_DATA" in os.environ:  # the notebooks run in their own folder
        os.environ["EVAKERAS_DATA"] = str(Path(os.environ["EVAKERAS_DATA"]).resolve())
    announce_data(options.full)
    options.folder.mkdir(parents=True, exist_ok=True)
    files = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    if options.only:
        files = [file for file in files if file.name.startswith(tuple(options.only))]
    failed, cards, start = [], [], time.perf_counter()
    for file in files:
        notebook, error, seconds = execute(file)
        nbformat.write(notebook, options.folder / file.name)
        (options.folder / f"{file.stem}.html").write_text(page(notebook, file.stem), encoding="utf-8")
        cards.append(card(notebook, file.stem, seconds, error))
        if error:
            failed.append(file.name)
            print(indented(error), flush=True)
        elif options.in_place:
            nbformat.write(notebook, file)
    (options.folder / "index.html").write_text(index(cards, options.full), encoding="utf-8")
    return close(files, failed, options.folder, time.perf_counter() - start)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to leave notebooks and pages")
    parser.add_argument("--full", action="store_true", help="full length; needs MNIST")
    parser.add_argument("--in-place", action="store_true", help="write the outputs back into notebooks/")
    parser.add_argument("--only", nargs="*", metavar="NN", help="numbers of the sessions, such as 03")
    return parser.parse_args()


def announce_data(full):
    """Say which digits the sessions will see; the full course insists on MNIST."""
    code = "from evakeras import data; print(data.load_mnist(limit=1).name)"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = TENSORFLOW_LOG.sub("", asked.stderr).strip()
    if asked.returncode:
        sys.exit(f"The data cannot be used: {said.splitlines()[-1]}")
    if full and asked.stdout.strip() != "mnist":
        sys.exit("The full course needs MNIST: put mnist.npz in a folder, set EVAKERAS_DATA to that folder.")
    print(said or "Data: MNIST", flush=True)


def execute(file):
    """Run one notebook in its own folder; returns it with its outputs, the error if any, and the seconds."""
    notebook = nbformat.read(file, as_version=4)
    print(f"{title(notebook)} … ", end="", flush=True)
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(file.parent)}},
        record_timing=False,
    )
    start, error = time.perf_counter(), None
    try:
        client.execute(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # cells' output comes by message
    except (CellExecutionError, DeadKernelError) as problem:
        error = str(problem)
    seconds = time.perf_counter() - start
    print(f"{'FAILED after ' if error else ''}{seconds:.0f} s", flush=True)
    tidy(notebook)
    return notebook, error, seconds


def tidy(notebook):
    """Keep what a reader wants of stderr: no log lines of TensorFlow, no rewritten progress bars."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        said = "".join(output.text for output in cell.outputs if output.get("name") == "stderr")
        lines = (line.rsplit("\r", 1)[-1].rstrip() for line in TENSORFLOW_LOG.sub("", said).split("\n"))
        said = "\n".join(line for line in lines if line)
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        if said:
            cell.outputs.insert(0, nbformat.v4.new_output("stream", name="stderr", text=said + "\n"))
    version = notebook.metadata.get("language_info", {}).get("version")
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python", "version": version},
        }
    )


class OfflineRenderer(IPythonRenderer):
    """Equations as MathML, which browsers draw themselves: no script, no network."""

    def block_math(self, body):
        return convert(body, display="block")

    def inline_math(self, body):
        return convert(body)


def page(notebook, name):
    """The notebook as one HTML page that needs nothing else."""
    exporter = HTMLExporter(mathjax_url="", require_js_url="", mermaid_js_url="", jquery_url="")
    renderer = OfflineRenderer(escape=False, embed_images=True, path=str(NOTEBOOKS))
    exporter.register_filter("markdown2html", lambda text: MarkdownWithMath(renderer=renderer).render(text))
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": name, "path": str(NOTEBOOKS)}})
    return body


def title(notebook):
    return re.search(r"^# (.+)$", notebook.cells[0].source, re.M).group(1)


def promise(notebook):
    """The first paragraph under the title, as plain text."""
    paragraph = notebook.cells[0].source.split("\n\n")[1]
    return re.sub(r"[*`$]|\[([^]]*)\]\([^)]*\)", r"\1", paragraph.replace("\n", " "))


def cover(notebook):
    """The picture of the first cell, else the first figure, as HTML."""
    named = re.search(r"!\[(.*?)\]\((.+?)\)", notebook.cells[0].source, re.S)
    if named:
        alt, path = named.groups()
        picture = base64.b64encode((NOTEBOOKS / path).read_bytes()).decode()
    else:
        outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
        figures = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
        alt, picture = "The first figure of the session", (figures or [""])[0].replace("\n", "")
    return f'<img src="data:image/png;base64,{picture}" alt="{html.escape(alt)}">'


def card(notebook, name, seconds, error):
    state = "<b>failed</b>" if error else f"{seconds:.0f} s"
    return (
        f'<article><h2><a href="{name}.html">{html.escape(title(notebook))}</a></h2>{cover(notebook)}'
        f"<p>{html.escape(promise(notebook))}</p>"
        f'<p class="small"><a href="{name}.ipynb">notebook</a> · {state}</p></article>'
    )


def index(cards, full):
    mode = (
        "in full length" if full else "in quick mode: little data, few epochs, figures for orientation only"
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>evakeras</title>
<style>
body {{ font: 17px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1.5rem }}
article {{ border: 1px solid #ddd; border-radius: 8px; padding: 0 1.2rem }}
img {{ max-width: 100% }}
h2 {{ font-size: 1.2rem }}
a {{ color: #0072B2 }}
.small {{ color: #666; font-size: .85rem }}
</style>
<h1>evakeras</h1>
<p>Normalization, regularization and augmentation for convolutional networks in Keras 3. Executed {mode}.</p>
<main>{"".join(cards)}</main></html>
"""


def close(files, failed, folder, seconds):
    where = (folder / "index.html").resolve()
    if failed:
        print(f"{len(failed)} of {len(files)} sessions failed: {', '.join(failed)}. Pages: {where}")
        return 1
    print(f"{len(files)} sessions in {seconds:.0f} s. Open {where}")
    return 0


def indented(text):
    return "\n".join("    " + line for line in text.splitlines()[-15:])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nStopped. Run the same command again; finished runs of the full course are read back.")
