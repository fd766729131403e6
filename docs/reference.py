"""Pages of the reference: the public names by the step of a study, as `neurocnn.__doc__` lists them."""

import re
from pathlib import Path

import neurocnn as nc

TABLE = """
.. autosummary::
   :nosignatures:{toctree}

   {names}
"""
INDEX = """
Reference
=========

The public names by the step of a study. In the examples, ``nc`` is neurocnn and ``tmp`` an empty folder.

.. currentmodule:: neurocnn

.. toctree::
   :hidden:

   {pages}
"""


def steps() -> dict[str, list[str]]:
    """Return the public names of each step of a study, in the order of the package's docstring."""
    lines = (nc.__doc__ or "").partition("by the step of a study:")[2].partition("``help")[0]
    found: dict[str, list[str]] = {}
    for title, text in re.findall(r"^(\w+) +(.*(?:\n +.*)*)", lines, re.MULTILINE):
        names = [name for name in re.findall(r"\w+", text) if name in nc.__all__]
        found[title] = list(dict.fromkeys(names)) or [f"plotting.{name}" for name in nc.plotting.__all__]
    return found


def write(folder: Path) -> None:
    """Write a page for each step, and one with the names of all steps, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    index = INDEX.format(pages="\n   ".join(title.lower() for title in steps()))
    for title, names in steps().items():
        listed = "\n   ".join(names)
        page = f"{title}\n{'=' * len(title)}\n\n.. currentmodule:: neurocnn\n"
        _write_changed(
            folder / f"{title.lower()}.rst", page + TABLE.format(toctree="\n   :toctree:", names=listed)
        )
        index += f"\n{title}\n{'-' * len(title)}\n" + TABLE.format(toctree="", names=listed)
    _write_changed(folder / "index.rst", index)


def _write_changed(path: Path, text: str) -> None:
    """Write a file unless it has this text, so that its page is not built again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
