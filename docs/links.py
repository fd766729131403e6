"""Links of the pages: from Markdown to the pages made of scripts, and from names in the text to the reference."""

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

import neurocnn as nc

PACKAGE = "src/neurocnn/__init__.py"
#: Variables of the examples whose methods have a page.
VARIABLES = {"caps": "Caps", "experiment": "Experiment", "results": "Results", "trainer": "Trainer"}


def to_scripts(app: Sphinx, docname: str, content: list[str]) -> None:
    """Let links to `tutorials`, `gallery`, their scripts and the package open the pages made from them."""
    content[0] = re.sub(
        r"\]\((?:\.\./)*((?:tutorials|gallery)/\w+)\.py\)", r"](/generated/\1.rst)", content[0]
    )
    content[0] = re.sub(r"\]\((?:\.\./)*(tutorials|gallery)\)", r"](/generated/\1/index.rst)", content[0])
    content[0] = content[0].replace(f"](../{PACKAGE})", "](/generated/reference/index.rst)")


def to_reference(app: Sphinx, doctree: nodes.document) -> None:
    """Link each public name in the text of a page, such as `kfold` or `results.predict(…)`, to its page."""
    if app.env.docname.startswith("generated/reference/"):
        return  # its names are links already
    for literal in list(doctree.findall(nodes.literal)):
        target, parent = target_of(literal.astext()), literal.parent
        if target is None or isinstance(parent, nodes.reference | nodes.title):
            continue
        if isinstance(parent, addnodes.pending_xref):
            parent["reftarget"] = target
            continue
        link = addnodes.pending_xref(
            "", refdomain="py", reftype="obj", reftarget=target, refdoc=app.env.docname, refwarn=False
        )
        literal.replace_self(link)
        link += literal


def target_of(code: str) -> str | None:
    """Return the dotted public name that a piece of code names or calls, None without one."""
    found = re.fullmatch(r"(nc\.)?(\w+)(?:\.(\w+))?(?:\(.*\))?", code, re.DOTALL)
    if found is None:
        return None
    prefix, name, member = found.groups()
    if member and not prefix:
        name = VARIABLES.get(name, name)
    # Without `nc.`, a method of `Results` may be meant.
    is_method = not prefix and not member and hasattr(nc.Results, name)
    owner = getattr(nc, name, None) if name in nc.__all__ and not is_method else None
    if owner is None or (member and not hasattr(owner, member)):
        return None
    return ".".join(["neurocnn", name, *([member] if member else [])])
