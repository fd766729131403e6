"""Settings of the documentation site; CONTRIBUTING.md has the commands that build and serve it.

The build needs no network: theme, fonts and scripts come from installed packages, and nothing links to the inventory of
another site. The reference is generated from the package, so that a new public name gets its page automatically.
"""

import inspect
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

import neurocnn as nc

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))  # for the modules next to this file

import examples  # noqa: E402
import links  # noqa: E402
import reference  # noqa: E402

project = "neurocnn"
author = "The neurocnn developers"
version = release = nc.__version__
copyright = author

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["gallery", "tutorials/*.py", "generated/**/*.ipynb"]
templates_path = ["_templates"]
default_role = "py:obj"  # a name in single backticks links to its page, if it has one
toc_object_entries = False
python_maximum_signature_line_length = 88

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
numpydoc_show_class_members = False  # the template of a class lists them
numpydoc_use_plots = False
numpydoc_xref_param_type = True  # links the errors of "Raises"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

html_theme = "pydata_sphinx_theme"
html_title = "neurocnn"
html_context = {"default_mode": "auto"}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navbar_align": "left",
    "show_nav_level": 1,
    "show_prev_next": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}
html_sidebars = {"index": []}

# The tutorials take minutes and are run by their own tests: the ordinary build shows them without running them.
sphinx_gallery_conf = {
    "examples_dirs": ["tutorials", "gallery"],
    "gallery_dirs": ["generated/tutorials", "generated/gallery"],
    "filename_pattern": "gallery.plot_",
    "image_scrapers": ("matplotlib", "examples.last_expression"),
    "capture_repr": (),
    "within_subsection_order": "examples.Order",
    "download_all_examples": False,
    "min_reported_time": 3600,
    "remove_config_comments": True,
    "show_signature": False,
    "write_computation_times": False,
    "abort_on_example_error": True,
    "reference_url": {"neurocnn": None},
    "doc_module": ("neurocnn",),
    "backreferences_dir": None,
}

reference.write(DOCS / "generated" / "reference")


def _skip_member(
    app: Sphinx, what: str, name: str, member: object, skip: bool, options: object
) -> bool | None:
    """Return True for members without a docstring or for another library to call, None for Sphinx's own rule."""
    function = getattr(member, "fget", getattr(member, "__func__", member))
    own = str(getattr(function, "__module__", "")).startswith("neurocnn.")
    return None if own and function.__doc__ and name != "extra_repr" else True


def _add_examples(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Add the examples of its class to a member without examples, so that each page has an executed example."""
    owner = getattr(nc, name.split(".")[1], None) if name.count(".") == 2 else None
    if inspect.isclass(owner) and "Examples" not in lines:
        lines += ["", *examples.of_class(owner)]


def _shorten_defaults(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Write a default that is not Python code as an ellipsis: Sphinx shortens the types only of valid code."""
    return signature and re.sub(r"= <[^<>]*>", "= ...", signature), returns


def setup(app: Sphinx) -> None:
    """Register the functions above."""
    app.connect("source-read", links.to_scripts)
    app.connect("doctree-read", links.to_reference)
    app.connect("autodoc-process-signature", _shorten_defaults)
    app.connect("autodoc-skip-member", _skip_member)
    app.connect("autodoc-process-docstring", _add_examples, priority=1)  # before numpydoc
