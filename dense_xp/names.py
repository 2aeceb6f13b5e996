"""Things that are asked for by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def by_name(kind: str, table: Mapping[str, T], name: str, otherwise: str = "") -> T:
    """Return what has this name.

    Parameters
    ----------
    kind : str
        What it is, for the error: ``"loss"``.
    table : mapping of str to object
        Everything by name.
    name : str
        The name that was asked for.
    otherwise : str
        What else would serve, for the error.

    Raises
    ------
    ValueError
        If nothing has this name; the message has the nearest one and all known ones.

    Examples
    --------
    >>> by_name("number", {"one": 1, "two": 2}, "two")
    2
    """
    if name in table:
        return table[name]
    import difflib  # only needed here

    near = difflib.get_close_matches(name, table, 1, 0.4)
    raise ValueError(
        f"unknown {kind} {name!r}"
        + (f"; did you mean {near[0]!r}?" if near else ".")
        + f" Known: {', '.join(table)}{otherwise}"
    )
