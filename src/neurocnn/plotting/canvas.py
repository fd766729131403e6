"""What all pictures share: a figure of their own, colours that everybody can tell apart, quiet axes.

Figures are made without pyplot: nothing pops up, nothing stays in memory once the caller lets go of it, and
no display is needed. matplotlib is imported when the first picture is made.
"""

import importlib
from collections.abc import Iterable
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from neurocnn.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people of every colour vision tell apart (jfly.uni-koeln.de/color).
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
INK, MUTED, FAINT = "#222222", "#666666", "#DDDDDD"
TITLE, LABEL, SMALL = 11, 9.5, 8.5


def new_figure(width: float, height: float) -> "Figure":
    """Make an empty figure that no window manager knows; sizes in inches, 100 dots an inch.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    try:
        figures = importlib.import_module("matplotlib.figure")
        layouts = importlib.import_module("matplotlib.layout_engine")
    except ImportError as error:
        raise MissingExtraError(
            f"pictures need matplotlib, which cannot be imported ({error}); pip install 'neurocnn[plot]'"
        ) from error
    layout = layouts.ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.07)
    figure: Figure = figures.Figure(figsize=(width, height), dpi=100, layout=layout)
    # Notebooks show what has this method, whether or not pyplot was ever imported.
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    return figure


def _png(figure: "Figure") -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def quiet(axes: "Axes", *, grid: bool = True) -> None:
    """Leave of the frame what is read: two lines, small ticks, a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(labelsize=SMALL, color=MUTED, labelcolor=INK, length=3)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(color=FAINT, linewidth=0.6)


def integers(axis: "Axis") -> None:
    """Put the ticks of an axis at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def title(axes: "Axes", text: str) -> None:
    """Head a picture, at its left."""
    axes.set_title(text, fontsize=TITLE, color=INK, loc="left")


def label(axes: "Axes", x: str, y: str) -> None:
    """Name both axes."""
    axes.set_xlabel(x, fontsize=LABEL, color=INK)
    axes.set_ylabel(y, fontsize=LABEL, color=INK)


def legend(axes: "Axes", *artists: Any, **options: Any) -> None:
    """Explain lines and marks; data below stay visible, text above stays readable."""
    shown = axes.legend(
        *artists, fontsize=SMALL, alignment="left", framealpha=0.8, edgecolor="none", **options
    )
    shown.get_title().set(fontsize=SMALL, color=MUTED)


def as_array(values: Any) -> npt.NDArray[np.float64]:
    """A tensor or an array as float64 numbers in memory."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().to(torch.float64).numpy()
    return np.asarray(values, dtype=np.float64)


def readable(name: str) -> str:
    """A column's name as a reader writes it.

    >>> readable("balanced_accuracy"), readable("mse")
    ('Balanced accuracy', 'MSE')
    """
    if name in {"mae", "mse", "rmse", "psnr", "ssim", "ppv", "npv", "r2"}:
        return name.upper()
    return name.replace("_", " ").capitalize()


def listed(names: Iterable[object]) -> str:
    """Names for an error message."""
    return ", ".join(map(str, names)) or "none"
