"""Common parts of all figures: creation, colours, axes, titles and legends.

Figures are created without pyplot, so that no window opens, no display is needed, and a figure is freed when its last
reference is deleted. matplotlib is imported when the first figure is created.
"""

import importlib
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

# Colour-blind people can distinguish these colours of Okabe and Ito (jfly.uni-koeln.de/color).
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = CYCLE
INK, MUTED, FAINT = "#222222", "#666666", "#DDDDDD"
TITLE, LABEL, SMALL = 11, 9.5, 8.5


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of the given width and height in inches, at 100 dots per inch. No window opens.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    try:
        figures = importlib.import_module("matplotlib.figure")
        layouts = importlib.import_module("matplotlib.layout_engine")
    except ImportError as error:
        raise MissingExtraError(
            f"matplotlib cannot be imported ({error}); figures require it; pip install 'neurocnn[plot]'"
        ) from error
    layout = layouts.ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.07)
    figure: Figure = figures.Figure(figsize=(width, height), dpi=100, layout=layout)
    # A notebook displays an object with this method, even if pyplot was never imported.
    figure._repr_png_ = partial(_as_png, figure)  # type: ignore[attr-defined]
    return figure


def _as_png(figure: "Figure") -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def set_style(axes: "Axes", *, grid: bool = True) -> None:
    """Draw only the left and lower edge of the frame, with small ticks, and a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(labelsize=SMALL, color=MUTED, labelcolor=INK, length=3)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(color=FAINT, linewidth=0.6)


def set_integer_ticks(axis: "Axis") -> None:
    """Place the ticks of an axis at integers."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def set_labels(axes: "Axes", title: str, x: str, y: str) -> None:
    """Set the title of a panel and the labels of both axes."""
    axes.set_title(title, fontsize=TITLE, color=INK, loc="left")
    axes.set_xlabel(x, fontsize=LABEL, color=INK)
    axes.set_ylabel(y, fontsize=LABEL, color=INK)


def add_legend(axes: "Axes", *artists: Any, **options: Any) -> None:
    """Add a legend on a nearly opaque background: its text is readable, and the data behind it are visible."""
    box = axes.legend(*artists, fontsize=SMALL, alignment="left", framealpha=0.8, edgecolor="none", **options)
    box.get_title().set(fontsize=SMALL, color=MUTED)


def draw_mean_and_band(axes: "Axes", x: npt.NDArray[np.float64], curves: Any, colour: str, text: str) -> None:
    """Draw the mean of curves and, for several curves, a band of ± one standard deviation (with n − 1)."""
    mean = np.mean(curves, axis=0)
    if len(curves) > 1:
        deviation = np.std(curves, axis=0, ddof=1)
        axes.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, mean, color=colour, linewidth=2.2, label=text)


def as_array(values: Any) -> npt.NDArray[np.float64]:
    """Return a tensor or an array as a float64 array in memory."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().to(torch.float64).numpy()
    return np.asarray(values, dtype=np.float64)


def readable(name: str) -> str:
    """Return the name of a column as readable text.

    >>> readable("balanced_accuracy"), readable("mse")
    ('Balanced accuracy', 'MSE')
    """
    if name in {"mae", "mse", "rmse", "psnr", "ssim", "ppv", "npv", "r2"}:
        return name.upper()
    return name.replace("_", " ").capitalize()
