"""What all pictures share: matplotlib, imported when the first is drawn, and one style."""

from __future__ import annotations

import importlib.util
import os
from typing import Any


def require_matplotlib() -> None:
    """Raise ImportError, with the remedy, if there is no matplotlib: better before the work than after it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError('pictures need matplotlib: run  pip install "dense-xp[cli]"')


def check_picture(path: str) -> None:
    """Raise if no picture can be drawn into such a file.

    Parameters
    ----------
    path : str
        Its ending says in which format.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If it does not write this format.
    """
    require_matplotlib()
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if os.path.splitext(path)[1][1:].lower() not in known:
        raise ValueError(f"{path}: the ending must be one of .{', .'.join(sorted(known))}")


def new_figure(width: float, height: float, *, shown: bool = False) -> Any:
    """Return a figure of this size in inches; if `shown`, made by pyplot, so that a notebook displays it."""
    require_matplotlib()
    if shown:
        from matplotlib.pyplot import figure
    else:
        from matplotlib.figure import Figure as figure
    return figure(figsize=(width, height), layout="constrained")


def tidy(axes: Any, xlabel: str, ylabel: str) -> Any:
    """Give axes their labels and the style of all pictures here; return them."""
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return axes
