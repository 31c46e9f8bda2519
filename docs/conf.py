"""How Sphinx builds the course site; tools/make_site.py lays out its source and calls it."""

import importlib
import inspect
import os
import re
import sys
from pathlib import Path

from docutils.nodes import SkipNode

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # else TensorFlow speaks of it while the reference is made

import numpy.typing  # noqa: E402
from course import mathml  # noqa: E402

# By its name in the reference: spelled out, it fills four lines.
numpy.typing.ArrayLike = type("ArrayLike", (), {"__module__": "numpy.typing"})

project = "evakeras"
copyright = "the evakeras contributors. Code: MIT; prose and figures: CC BY 4.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

nb_execution_mode = "off"  # the outputs are those of the committed notebooks
myst_enable_extensions = ["attrs_block", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]  # results for other tools, beside the table that readers see

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # no pages of Keras's own words
add_module_names = False
toc_object_entries_show_parents = "hide"
default_role = "code"  # docstrings are written with single backquotes
nitpick_ignore_regex = [("py:.*", r"(?!evakeras\.).*")]  # types of Keras, NumPy and Python have no page here

html_theme = "sphinx_book_theme"
html_title = "evakeras"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/icon.svg"
html_use_index = html_domain_indices = False  # the search does more
html_show_search_summary = False  # would fetch pages, which browsers forbid for files
html_show_sphinx = False
html_math_renderer = "mathml"
html_context = {"default_mode": "auto"}  # dark where the reader's system is
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": True,
    "navbar_persistent": [],  # the search has its place in the sidebar
    "footer_content_items": ["copyright.html"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


def inline_math(translator, node):
    translator.body.append(f'<span class="formula">{mathml(node.astext())}</span>')
    raise SkipNode


def block_math(translator, node):
    translator.body.append(f'<div class="equation">{mathml(node.astext(), display="block")}</div>')
    raise SkipNode


def as_restructured_text(app, what, name, obj, options, lines):
    """Docstrings are written for people: guard what reStructuredText would take for its own signs."""
    example = False
    for n, line in enumerate(lines):
        if re.fullmatch(r"\s*[A-Z]\w+:", line):
            example = line.strip() == "Example:"
        if not example:
            parts = re.split(r"(`[^`]+`)", line)  # prose and code in turn
            parts[::2] = [re.sub(r"\||_\b", r"\\\g<0>", part) for part in parts[::2]]
            lines[n] = re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", "".join(parts))


def without_fields(app, what, name, obj, skip, options):
    """Fields of named tuples: the docstring of the class tells of them."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def tell_arguments(module):
    """Let classes show the arguments of their `__init__`, which Keras hides behind `*args, **kwargs`."""
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__ and "__init__" in vars(value):
            own = inspect.signature(value.__init__)
            value.__signature__ = own.replace(parameters=list(own.parameters.values())[1:])


def setup(app):
    for file in (ROOT / "evakeras").glob("[a-z]*.py"):
        tell_arguments(importlib.import_module(f"evakeras.{file.stem}"))
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", without_fields)
    return {"parallel_read_safe": False, "parallel_write_safe": False}  # TensorFlow is loaded
