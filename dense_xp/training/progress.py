"""The progress bar of a training."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any

from dense_xp.training.interrupts import Interrupts


class Progress:
    """The bar that tqdm draws, or nothing.

    tqdm keeps a lock for all threads and all forked processes. If one of them ends while it holds the lock, the others
    wait for ever. So nothing of tqdm is used where nobody would see it, and no Ctrl-C is raised within it.

    Parameters
    ----------
    total : int or None
        How many batches are to come, if that is known.
    verbose : bool or None
        Whether to draw. None: on a terminal and in a notebook.
    interrupts : Interrupts
        Nothing is raised when this is made or closed.
    """

    def __init__(self, total: int | None, verbose: bool | None, interrupts: Interrupts) -> None:
        self._bar: Any = None
        self.advance = _nothing
        """Call it after each batch."""
        terminal = getattr(sys.stderr, "isatty", bool)()
        if verbose or (verbose is None and (terminal or "IPython" in sys.modules)):
            from tqdm.auto import tqdm  # it imports asyncio: half as much again as all of NumPy

            self._bar = tqdm(total=total, unit="batch", disable=None if verbose is None else False)
            self.advance = functools.partial(interrupts.undisturbed, self._bar.update)

    def show(self, means: Mapping[str, float]) -> None:
        """Show what was measured in the last epoch."""
        if self._bar is not None:
            self._bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()})

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def _nothing() -> None:
    """Draw nothing."""
