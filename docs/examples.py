"""Order and figures of the examples and tutorials, and the examples of a class."""

import inspect

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

FIRST = ["quickstart.py", "from_images_to_a_paper.py", "lab.py", "train_your_own.py"]


class Order:
    """Key by which the scripts of a folder are sorted: tutorials as they build on each other, examples by name."""

    def __init__(self, folder: str) -> None:
        pass

    def __call__(self, name: str) -> tuple[int, str]:
        return FIRST.index(name) if name in FIRST else len(FIRST), name


def of_class(one: type) -> list[str]:
    """Return the lines of the section "Examples" in the docstring of a class; an empty list without this section."""
    lines = (inspect.getdoc(one) or "").splitlines()
    return lines[lines.index("Examples") :] if "Examples" in lines else []


def last_expression(block: object, variables: dict, settings: dict) -> str:
    """Show the figure that a block ends with, as a notebook does; return "" if it ends with something else."""
    names = variables["example_globals"]
    value, names["___"] = names.get("___"), None  # the next block may end without an expression
    if not isinstance(value, Figure):
        return ""
    path = next(variables["image_path_iterator"])
    value.savefig(path, dpi=100)
    return figure_rst([path], settings["src_dir"])
