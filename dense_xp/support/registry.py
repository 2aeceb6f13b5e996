"""Things that are asked for by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

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


def made(kind: str, table: Mapping[str, type[Any]], spec: Any, otherwise: str = "") -> Any:
    """Return what a name or a configuration stands for; anything else as it is.

    Parameters
    ----------
    kind, table, otherwise
        As in :func:`by_name`; the table holds classes.
    spec : object
        A name; or what :func:`described` wrote.

    Raises
    ------
    ValueError
        If nothing has this name.

    Examples
    --------
    >>> made("number", {"complex": complex}, {"name": "complex", "real": 1.0})
    (1+0j)
    """
    if isinstance(spec, Mapping):
        arguments = {key: value for key, value in spec.items() if key != "name"}
        return by_name(kind, table, spec["name"], otherwise)(**arguments)
    return by_name(kind, table, spec, otherwise)() if isinstance(spec, str) else spec


def described(table: Mapping[str, type[Any]], thing: Any) -> Any:
    """Return a dataclass as plain values: its name, with its arguments if they are not the defaults.

    What is not of a class in the table has no such form, and is returned as it is.
    """
    for name, known in table.items():
        if type(thing) is known:
            arguments: dict[str, Any] = vars(thing)
            defaults = {key: getattr(known, key, None) for key in arguments}  # a dataclass keeps them on the class
            return name if arguments == defaults else {"name": name, **arguments}
    return thing
