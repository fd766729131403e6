"""Figures of the examples: as in a notebook, the last expression of a block is shown."""

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst


def last_expression(block: object, variables: dict, settings: dict) -> str:
    """Save the figure that a block ends with, and return the text that shows it, "" if it ends with something else."""
    value = variables["example_globals"].get("___")
    if not isinstance(value, Figure):
        return ""
    path = next(variables["image_path_iterator"])
    value.savefig(path, dpi=100)
    return figure_rst([path], settings["src_dir"])
