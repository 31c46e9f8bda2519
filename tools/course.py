"""Execute the session notebooks and leave them, with readable pages and an index, in a folder.

python tools/course.py build/course              quick mode, a few minutes
python tools/course.py --full build/full         full length, on MNIST
python tools/course.py --full --in-place …       and write the outputs back into notebooks/
"""

import argparse
import ast
import base64
import html
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from latex2mathml.converter import convert
from listing import NOTEBOOKS, ROOT, chosen, indented, notebooks, sessions, set_variables, write_whole
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

COVER = "attachment:cover.png"
UNDESCRIBED = "No description has been provided for this image"
TITLES, AXES = {"title", "titles", "suptitle"}, {"xlabel", "ylabel"}  # words of Matplotlib and of plots.py
QUICK_RUN = (
    "A quick run, on little data: it shows that every cell works on this computer, and its numbers mean "
    "nothing. The text speaks of the full run, whose outputs are in notebooks/ and in the site."
)
TENSORFLOW_LOG = re.compile(r"^(WARNING: All log messages before absl|[IWE]\d{4} ).*\n?", re.M)


def main():
    options = parse()
    set_variables(quick=not options.full)
    announce_data(options.full)
    options.folder.mkdir(parents=True, exist_ok=True)
    failed, cards, start = [], [], time.perf_counter()
    files = notebooks() if options.in_place else sessions()  # solutions only where their outputs are kept
    for file in chosen(files, options.only):
        notebook, error, seconds = execute(file)
        if error:
            failed.append(file.stem)
            print(indented(error), flush=True)
        elif options.in_place:
            keep_pictures(notebook, file)
            write_whole(file, nbformat.writes(notebook) + "\n")
        if file.parent == NOTEBOOKS:
            nbformat.write(notebook, options.folder / file.name)
            made = page(notebook, head("" if options.full else QUICK_RUN))
            (options.folder / f"{file.stem}.html").write_text(made, encoding="utf-8")
            cards.append(card(notebook, file.stem, seconds, error))
    if not options.only:  # which would leave the others out
        (options.folder / "index.html").write_text(index(cards, options.full), encoding="utf-8")
    return close(len(cards), failed, options.folder, time.perf_counter() - start)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to leave notebooks and pages")
    parser.add_argument("--full", action="store_true", help="full length; needs MNIST")
    parser.add_argument("--in-place", action="store_true", help="write the outputs back into notebooks/")
    parser.add_argument("--only", nargs="*", metavar="NN", help="numbers of the sessions, such as 03")
    options = parser.parse_args()
    if options.in_place and not options.full:
        parser.error("--in-place needs --full: committed outputs come from full runs")
    return options


def announce_data(full):
    """Say which digits the sessions will see; the full course insists on MNIST."""
    code = "from evakeras import data; print(data.load_mnist(limit=1).name)"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = TENSORFLOW_LOG.sub("", asked.stderr).strip()
    if asked.returncode:
        sys.exit(f"The data cannot be used: {(said or 'no reason given').splitlines()[-1]}")
    if full and asked.stdout.strip() != "mnist":
        sys.exit("The full course needs MNIST: put mnist.npz in a folder, set EVAKERAS_DATA to that folder.")
    print(said or "Data: MNIST", flush=True)


def execute(file):
    """Run one notebook in its own folder; returns it with its outputs, the error if any, and the seconds."""
    notebook = nbformat.read(file, as_version=4)
    print(f"{file.stem[:2]} {title(notebook)} … ", end="", flush=True)
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
    except AssertionError as problem:
        if isinstance(problem.__context__, DeadKernelError):  # nbclient's way to end with Ctrl-C
            raise KeyboardInterrupt from None
        raise
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


def mathml(latex, display="inline"):
    """An equation as MathML, which browsers draw themselves: no script, no network."""
    bars = r'<mo(?: stretchy="false")?>(?=&#x0007C;|&#x02016;)'  # |w| is no "w divides"
    return re.sub(bars, '<mo stretchy="false" lspace="0" rspace="0">', convert(latex, display=display))


class OfflineRenderer(IPythonRenderer):
    """Prose with equations that need no script."""

    def block_math(self, body):
        return mathml(body, display="block")

    def inline_math(self, body):
        return mathml(body)


def head(note):
    """What stands above a notebook in its page."""
    words = f"<b>{note}</b>" if note else ""
    return f'<p style="max-width: 60em; margin: 1em auto"><a href="index.html">← all sessions</a> {words}</p>'


def page(notebook, above=""):
    """The notebook as one HTML page that needs nothing else."""
    exporter = HTMLExporter(mathjax_url="", require_js_url="", mermaid_js_url="", jquery_url="")
    renderer = OfflineRenderer(escape=False)
    exporter.register_filter("markdown2html", lambda text: MarkdownWithMath(renderer=renderer).render(text))
    complete = described(with_pictures_inside(notebook))
    body, _ = exporter.from_notebook_node(complete, {"metadata": {"name": title(notebook)}})
    body = body.replace("<main>", f"<main>{above}", 1)
    for output in (output for cell in complete.cells for output in cell.get("outputs", [])):
        if "image/png" in output.get("data", {}):  # whose description nbconvert's page leaves out
            body = body.replace(UNDESCRIBED, html.escape(output.metadata["image/png"]["alt"]), 1)
    return body


def title(notebook):
    return re.search(r"^# (.+)$", notebook.cells[0].source, re.M).group(1)


def promise(notebook):
    """The first paragraph under the title, as plain text."""
    return plain(notebook.cells[0].source.split("\n\n")[1])


def plain(markdown):
    return re.sub(r"[*`$]|\[([^]]*)\]\([^)]*\)", r"\1", markdown.replace("\n", " "))


def figures(notebook, tag=None):
    """The figures of the notebook, or of the cells with a tag, as base64 PNGs."""
    for cell in notebook.cells:
        if tag is None or tag in cell.metadata.get("tags", []):
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    yield output.data["image/png"].replace("\n", "")


def keep_pictures(notebook, file):
    """Put the figure tagged "cover" into the first cell, and it and those tagged "asset-…" into assets/."""
    cover = next(figures(notebook, "cover"), None)
    if cover and COVER in notebook.cells[0].source:
        notebook.cells[0].attachments = {"cover.png": {"image/png": cover}}
    tags = {tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    for tag in ("cover", *sorted(tag for tag in tags if tag.startswith("asset-"))):
        for picture in figures(notebook, tag):
            name = f"{file.stem[:2]}-{tag.removeprefix('asset-')}.png"
            (ROOT / "assets" / name).write_bytes(base64.b64decode(picture))


def with_pictures_inside(notebook):
    """A copy whose attached cover, if it has one, is written out in the text."""
    notebook = nbformat.from_dict(notebook)
    first = notebook.cells[0]
    if "attachments" in first:
        png = first.attachments["cover.png"]["image/png"]
        first.source = first.source.replace(COVER, "data:image/png;base64," + png)
    else:
        first.source = re.sub(rf"!\[[^]]*\]\({COVER}\)", "", first.source)
    return notebook


def described(notebook):
    """A copy whose figures all have an alt text: their section, and the words that their code draws."""
    notebook, section = nbformat.from_dict(notebook), ""
    for cell, below in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        if cell.cell_type == "markdown":
            section = (re.findall(r"^#+ (.+)$", cell.source, re.M) or [section])[-1]
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                about = output.metadata.setdefault("image/png", nbformat.NotebookNode())
                words = words_drawn(cell.source) or first_words(below)
                about.setdefault("alt", plain(f"Figure in “{section}”. {words}").strip())
    return notebook


def words_drawn(source):
    """Titles and names of axes that the code of a figure spells out."""
    titles, axes = {}, {}
    for node in ast.walk(ast.parse(TransformerManager().transform_cell(source))):  # magics as Python
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") != "legend":
            given = [(word.arg or "", word.value) for word in node.keywords]
            given += [(getattr(node.func, "attr", "").removeprefix("set_"), value) for value in node.args[:1]]
            titles |= dict.fromkeys(texts(value) for name, value in given if name in TITLES)
            axes |= dict.fromkeys(texts(value) for name, value in given if name in AXES)
    parts = "; ".join(filter(None, titles)), "; ".join(filter(None, axes))
    return f"{parts[0]}. " * bool(parts[0]) + f"Axes: {parts[1]}." * bool(parts[1])


def texts(node):
    """The text that an expression spells out, or those of a list, with commas."""
    nodes = node.elts if isinstance(node, ast.List | ast.Tuple) else [node]
    values = [part.value for part in nodes if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return ", ".join(value for value in values if value)


def first_words(cell):
    """The first sentence of a cell of prose, unless it begins a new section."""
    if cell is None or cell.cell_type != "markdown" or cell.source.startswith("#"):
        return ""
    return re.split(r"(?<=[.?!]) ", plain(cell.source.split("\n\n")[0]))[0]


def card(notebook, name, seconds, error):
    attached = notebook.cells[0].get("attachments", {}).get("cover.png", {}).get("image/png")
    png = attached or next(figures(notebook), "")
    picture = f'<img src="data:image/png;base64,{png}" alt="The picture that the session ends in">'
    state = "<b>failed</b>" if error else f"{seconds:.0f} s"
    return (
        f'<article><h2><a href="{name}.html">{name[:2]} {html.escape(title(notebook))}</a></h2>{picture}'
        f"<p>{html.escape(promise(notebook))}</p>"
        f'<p class="small"><a href="{name}.ipynb">notebook</a> · {state}</p></article>'
    )


def index(cards, full):
    mode = (
        "in full length" if full else "in quick mode, on little data: the numbers in these pages mean nothing"
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


def close(count, failed, folder, seconds):
    where = folder.resolve() / "index.html"
    if not where.is_file():
        where = where.parent
    if failed:
        print(f"Failed: {', '.join(failed)}. Pages: {where}")
        return 1
    print(f"{count} sessions in {seconds:.0f} s. Open {where}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nStopped. Run the same command again; finished runs of the full course are read back.")
