"""Which rows are learned from, and which columns a table must have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dense_xp.support.texts import nearest
from dense_xp.tables.columns import Host, counted, some_of
from dense_xp.tables.errors import TableError

if TYPE_CHECKING:
    import polars as pl


def split(n_rows: int, share: float, seed: int, codes: Host | None = None) -> tuple[Host, Host]:
    """Divide rows into those to learn from and those that are held out, each in their order.

    Parameters
    ----------
    n_rows : int
        How many rows there are.
    share : float
        What share is held out; 0 holds out none, and anything else at least one.
    seed : int
        Fixes which rows.
    codes : numpy.ndarray of int, shape (n_rows,), optional
        The class of each row: the share is then held out of each class, but never all of one.

    Returns
    -------
    learn, held_out : numpy.ndarray of int

    Raises
    ------
    TableError
        If too few rows are left.

    Examples
    --------
    >>> learn, held_out = split(10, 0.2, 0, np.array([0] * 5 + [1] * 5))
    >>> len(learn), [int(row >= 5) for row in held_out]
    (8, [0, 1])
    """
    order = np.random.default_rng(seed).permutation(n_rows)
    classes = np.zeros(n_rows, dtype="int64") if codes is None else codes
    first = np.unique(classes[order], return_index=True)[1]  # one row of each class stays to be learned from
    free = np.delete(order, first)
    free = free[np.argsort(classes[free], kind="stable")]
    wanted = min(max(1, round(share * n_rows)), len(free)) if share else 0
    if share and not wanted:
        raise TableError(f"{counted(n_rows, 'row')}: too few to hold some out; --validation 0 learns from all")
    # at equal distances in the order of the classes: the same share of each, small ones too
    out = np.zeros(n_rows, dtype=bool)
    out[free[np.arange(wanted) * len(free) // max(1, wanted)]] = True
    return np.flatnonzero(~out), np.flatnonzero(out)


def check_columns(frame: pl.DataFrame, names: Sequence[str], what: str = "") -> None:
    """Raise if a column is not in a table; the message has the nearest name.

    Parameters
    ----------
    frame : polars.DataFrame
        The table.
    names : sequence of str
        The columns that must be there.
    what : str
        What they are for: ``", which the model needs"``.

    Raises
    ------
    TableError
        For the first that is not there.
    """
    for name in names:
        if name not in frame.columns:
            near = nearest(name, frame.columns, 0.6)
            hint = f"; did you mean {near!r}?" if near else "."
            raise TableError(f"there is no column {name!r}{what}{hint} There are: {some_of(frame.columns)}")
