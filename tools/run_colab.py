"""Execute the notebooks for Colab one by one, in quick mode, each alone in an empty folder.

python tools/run_colab.py dist/colab                  all
python tools/run_colab.py dist/colab --only 03 08     these sessions and their solutions

The Python that runs them sees the packages of this environment, but not evakeras: what a notebook needs of
it, the notebook must bring.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from listing import chosen, indented, notebooks, set_variables
from nbclient import NotebookClient


def main():
    options = parse()
    if options.inside:
        return asyncio.run(execute(options.folder, options.inside, options.limit))
    forget_this_checkout()
    written, start = notebooks(options.folder), time.perf_counter()
    if not written:
        sys.exit(f"No notebooks in {options.folder}: make colab")
    files = chosen(written, options.only)
    with tempfile.TemporaryDirectory(prefix="evakeras-") as folder:
        python = environment_without_evakeras(Path(folder))
        failed = run_all(python, files, options)
    print(f"{len(files)} notebooks, each alone, in {time.perf_counter() - start:.0f} s: ", end="")
    print(f"failed: {', '.join(failed)}" if failed else "all passed.")
    return 1 if failed else 0


def run_all(python, files, options):
    """Execute the notebooks and report on each; returns the names of those that failed."""
    failed = []
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = [pool.submit(run_alone, python, file, options.limit) for file in files]
        try:
            for file, run in zip(files, runs, strict=True):
                name, (seconds, error) = str(file.relative_to(options.folder).with_suffix("")), run.result()
                print(f"{name} {'FAILED after ' if error else ''}{seconds:.0f} s", flush=True)
                if error:
                    failed.append(name)
                    print(indented(error), flush=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    return failed


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `make colab` wrote")
    parser.add_argument("--only", nargs="*", metavar="NN", help="numbers of the sessions, such as 03")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default: 2)")
    parser.add_argument("--limit", type=float, default=900, help="seconds for each (default: 900)")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)  # the folder in which to execute one
    return parser.parse_args()


def forget_this_checkout():
    set_variables(quick=True)
    for name in ("PYTHONPATH", "JUPYTER_PATH"):
        os.environ.pop(name, None)


def environment_without_evakeras(folder):
    """The Python of a new environment that finds the packages of this one, and no evakeras."""
    venv.create(folder, symlinks=os.name != "nt")
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    site = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    # a folder named in a .pth is searched, but not the .pth files in it, of which one leads to this checkout
    (Path(site) / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([python, "-m", "ipykernel", "install", "--sys-prefix"], check=True, capture_output=True)
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run([python, "-c", "import evakeras"], cwd=empty, capture_output=True, text=True)
    if "No module named 'evakeras'" not in done.stderr:
        sys.exit(
            f"evakeras can be imported without the notebooks, so this would prove nothing. {done.stderr}"
        )
    return python


def run_alone(python, file, limit):
    """Execute one notebook in an empty folder; returns the seconds and the error, if any."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="evakeras-") as empty:
        command = [python, __file__, file, "--inside", empty, "--limit", str(limit)]
        done = subprocess.run(command, capture_output=True, text=True)
    error = (done.stderr or "no reason given") if done.returncode else ""
    return time.perf_counter() - start, error


async def execute(file, folder, limit):
    """Run a notebook in a folder, in the environment of this very Python."""
    notebook = nbformat.read(file, as_version=4)
    client = NotebookClient(notebook, timeout=None, kernel_name="python3")
    run = client.async_execute(cwd=str(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    task = asyncio.ensure_future(run)
    await asyncio.wait([task], timeout=limit)
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)  # until its kernel has ended
        sys.exit(f"still running after {limit:.0f} s")
    if task.exception():  # of a cell or of the kernel
        sys.exit(str(task.exception()))
    brings_helpers = any(cell.get("id") == "helpers" for cell in notebook.cells)
    if brings_helpers and not (folder / "evakeras" / "__init__.py").is_file():
        sys.exit("the notebook did not write its helpers")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nStopped.")
