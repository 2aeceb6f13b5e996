"""The learning curve as a picture."""

from __future__ import annotations

from typing import Any

from dense_xp.support.pictures import new_figure, tidy


def learning_curve(history: Any, figure: Any = None, *, shown: bool = False) -> Any:
    """Draw a history; see :meth:`History.plot`. If `shown`, pyplot makes the new figure, and a notebook displays it."""
    measures = [name for name, column in history.items() if len(column) == history.epochs and name[:4] != "val_"]
    if not history.epochs:
        raise ValueError("there is nothing to draw: no epoch was completed")
    figure = new_figure(4.5 * len(measures) + 1, 4, shown=shown) if figure is None else figure
    from matplotlib.ticker import MaxNLocator

    epochs = range(1, history.epochs + 1)
    for axes, name in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
        tidy(axes, "epoch", name).plot(epochs, history[name], marker=".", label="rows that are learned from")
        if len(history.get(f"val_{name}", ())) == history.epochs:
            axes.plot(epochs, history[f"val_{name}"], marker=".", label="rows that are held out")
        if history.best_epoch:
            axes.axvline(history.best_epoch, color="grey", linewidth=1, linestyle=":", label="weights that are kept")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return figure
