"""How every figure looks, in a light and a dark theme, and how it becomes bytes.

Colours are those of Okabe and Ito (2008), lightened for the dark theme: the colour-blind tell them
apart, and every series has a marker of its own too. Nothing of a user's own matplotlib settings,
and no date or version, enters the bytes.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_DPI = 160
_WIDTH = 7.6


@dataclass(frozen=True)
class Theme:
    """Ink, grid, paper, and the colours of series."""

    ink: str
    muted: str
    grid: str
    paper: str
    series: tuple[str, ...]


LIGHT = Theme(
    "#1c2430", "#5d6878", "#e3e7ed", "#ffffff", ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
)
DARK = Theme(
    "#e7ebf1", "#98a3b3", "#2c3542", "#161c25", ("#56b4e9", "#e69f00", "#35c99d", "#e3a3c6")
)


def make_axes(theme: Theme, *, height: float, grid: Literal["x", "y"] = "y") -> tuple[Figure, Axes]:
    """A figure of the page's width, `height` inches high, and its axes."""
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(axis=grid, color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


@contextmanager
def themed(theme: Theme) -> Iterator[None]:
    """Within it, matplotlib's defaults and ours, whatever the user's own settings are."""
    ours: Any = {
        "font.family": "DejaVu Sans",
        "font.size": 8.5,
        "text.color": theme.ink,
        "text.parse_math": False,  # a folder's name may hold a dollar sign
        "axes.labelcolor": theme.muted,
        "axes.edgecolor": theme.muted,
        "axes.facecolor": theme.paper,
        "figure.facecolor": theme.paper,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
    }
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(ours)
        yield


def png_bytes(figure: Figure) -> bytes:
    """PNG, without the metadata that would differ between versions."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
