"""Checks of arguments: their type and range.

NumPy's numbers become Python's. A bool is not a number, and NaN is in no range.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any, ClassVar, TypeAlias

Ranges: TypeAlias = Mapping[str, str | int | None]
"""For fields by name: an interval as for :func:`real`, or the least whole number as for :func:`integer`."""

_BRACKETS = {
    "[": ("at least", operator.ge),
    "(": ("above", operator.gt),
    "]": ("at most", operator.le),
    ")": ("below", operator.lt),
}
_PHRASES = {
    "[0, inf)": "a number that is not negative",
    "(0, inf)": "a positive number",
    "(-inf, inf)": "a number that is finite",
}


def real(name: str, value: Any, interval: str = "(-inf, inf)") -> float:
    """Return a real number as a float.

    Parameters
    ----------
    name : str
        Its name, for the error.
    value : object
        What was given.
    interval : str
        The allowed interval; a limit with a square bracket is included.

    Raises
    ------
    ValueError
        If it is not a real number, or outside the interval.

    Examples
    --------
    >>> import numpy as np
    >>> real("momentum", np.float64(0.5), "[0, 1)")
    0.5
    >>> real("momentum", 1, "[0, 1)")
    Traceback (most recent call last):
    ValueError: momentum must be a number, at least 0 and below 1, and is 1
    """
    low, high = interval[1:-1].split(", ")
    (least, from_low), (greatest, to_high) = _BRACKETS[interval[0]], _BRACKETS[interval[-1]]
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # an int beyond all floats
            number = math.inf
        if from_low(number, float(low)) and to_high(number, float(high)):
            return number
    wanted = _PHRASES.get(interval) or f"a number, {least} {low}" + (f" and {greatest} {high}" if high != "inf" else "")
    raise ValueError(f"{name} must be {wanted}, and is {value!r}")


def integer(name: str, value: Any, low: int | None = 1) -> int:
    """Return a whole number as an int.

    Parameters
    ----------
    name, value
        As for :func:`real`.
    low : int or None, default 1
        The least value allowed; None for no limit.

    Raises
    ------
    ValueError
        If it is not an integer, or below `low`.

    Examples
    --------
    >>> import numpy as np
    >>> integer("n_units", np.int64(3))
    3
    >>> integer("n_units", 0)
    Traceback (most recent call last):
    ValueError: n_units must be a positive integer, and is 0
    """
    if isinstance(value, Integral) and not isinstance(value, bool) and (low is None or int(value) >= low):
        return int(value)
    phrases = {None: "an integer", 0: "an integer that is not negative", 1: "a positive integer"}
    wanted = phrases.get(low, f"an integer, at least {low}")
    raise ValueError(f"{name} must be {wanted}, and is {value!r}")


def several(name: str, value: Any) -> list[Any]:
    """Return a list, a tuple or another iterable as a list.

    Raises
    ------
    TypeError
        If it is anything else, such as a string or a mapping.

    Examples
    --------
    >>> several("metrics", ("accuracy",))
    ['accuracy']
    >>> several("metrics", "accuracy")
    Traceback (most recent call last):
    TypeError: metrics must be a list, and is 'accuracy': metrics=['accuracy']
    """
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        return list(value)
    raise TypeError(f"{name} must be a list, and is {value!r:.60}: {name}=[{value!r:.60}]")


def names(name: str, value: Any) -> tuple[str, ...]:
    """Return a list of names as a tuple, or raise TypeError; see :func:`several`.

    Examples
    --------
    >>> names("no_decay", ["w0", "gamma"])
    ('w0', 'gamma')
    """
    found = tuple(several(name, value))
    for one in found:
        if not isinstance(one, str):
            raise TypeError(f"{name} must hold names, and has {one!r:.60}")
    return found


class Checked:
    """Base class of dataclasses whose numbers have ranges: they are checked, and become floats and ints.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Fall(Checked):
    ...     factor: float
    ...     every: int = 1
    ...     ranges: ClassVar[Ranges] = {"factor": "[0, 1)", "every": 1}
    >>> Fall(1, every=2)
    Traceback (most recent call last):
    ValueError: factor must be a number, at least 0 and below 1, and is 1
    """

    ranges: ClassVar[Ranges] = {}
    """For fields by name: the interval of a number, as ``"[0, 1)"``, or the least integer. A default None stays."""

    def __post_init__(self) -> None:
        for kind in reversed(type(self).__mro__):
            for name, allowed in vars(kind).get("ranges", {}).items():
                value = getattr(self, name)
                if value is not None or getattr(type(self), name, ...) is not None:
                    check = real if isinstance(allowed, str) else integer
                    object.__setattr__(self, name, check(name, value, allowed))
