"""The way from the columns of a table to the numbers of a network, and back, as part of an ONNX graph.

The twin of :class:`~dense_xp.tables.Encoder` for symbolic arrays: the same features in the same order. What depends on
a file and not on a value, such as how a number is written, is not in it. A missing number or date is NaN, a missing
text is empty.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dense_xp.layers.activations import Softmax
from dense_xp.tables.columns import Category, Number, free_name
from dense_xp.tables.dates import YEAR, Dates
from dense_xp.tables.encoder import Column, Encoder
from dense_xp.tables.targets import Classes
from dense_xp.tables.texts import mark_numbers


def input_kinds(encoder: Encoder) -> dict[str, str]:
    """Return the inputs of a graph that takes the columns of a table.

    Parameters
    ----------
    encoder : Encoder
        What was learned from the table.

    Returns
    -------
    dict of str to {"float64", "utf8"}
        The dtype of each column that is used, by its name, in order. Texts, and yes and no, are texts. Numbers are
        float64, also those that are names, and so are dates: days since 1970, the time of day as a fraction.

    Examples
    --------
    >>> input_kinds(Encoder([Number("size", 2.0, 1.0), Category("kind", ["a", "b"])], Classes("y", ["0", "1"])))
    {'size': 'float64', 'kind': 'utf8'}
    """
    return {
        _named(column.name): "utf8" if isinstance(column, Category) and column.of != "number" else "float64"
        for column in encoder.columns
    }


def encoded(xp: Any, encoder: Encoder, inputs: Mapping[str, Any], missing: Sequence[str] = ()) -> Any:
    """Return the features of a table as a symbolic array.

    Parameters
    ----------
    xp : module
        The namespace of the inputs: ndonnx.
    encoder : Encoder
        What was learned from the table.
    inputs : mapping of str to array, each of shape (n_rows, 1)
        The columns, of the dtypes that :func:`input_kinds` says.
    missing : sequence of str
        What else stands for a missing value; a mark that is a number stands for that number.

    Returns
    -------
    array of float32, shape (n_rows, n_features)

    Raises
    ------
    ValueError
        If values of a category are numbers that float64 does not tell apart.
    """
    parts: list[Any] = []
    for are_numbers, group in itertools.groupby(encoder.columns, lambda column: isinstance(column, Number)):
        columns = list(group)
        given = [inputs[_named(column.name)] for column in columns]
        if are_numbers:  # side by side, in few operations
            parts.append(_standardised(xp, columns, xp.concat(given, axis=1), missing))
        else:
            parts += [part for column, x in zip(columns, given, strict=True) for part in _parts(xp, column, x, missing)]
    return xp.astype(xp.concat(parts, axis=1), xp.float32)


def decoded(xp: Any, encoder: Encoder, output: Any) -> dict[str, Any]:
    """Return what the output of a network means, as symbolic arrays by name.

    Parameters
    ----------
    xp : module
        The namespace of the output: ndonnx.
    encoder : Encoder
        What was learned from the table.
    output : array, shape (n_rows, n_outputs)
        Logits, or a standardised number.

    Returns
    -------
    dict of str to array
        Under the target's name the class of each row as a text, shape (n_rows,), and under ``"probabilities"`` that of
        each class, shape (n_rows, n_classes); or a number in its unit, float64, shape (n_rows, 1). Where the output is
        not finite, the class is empty and the numbers are NaN.
    """
    target = encoder.target
    name = _named(target.name)
    known = xp.all(xp.isfinite(output), axis=1, keepdims=True)
    if not isinstance(target, Classes):
        return {name: xp.where(known, xp.astype(output, xp.float64) * target.scale + target.mean, _nan(xp))}
    labels = xp.take(xp.asarray(np.array(target.labels)), xp.argmax(output, axis=1))
    shares = Softmax().forward({}, output)[0]
    return {
        name: xp.where(known[:, 0], labels, xp.asarray("")),
        free_name("probabilities", [name, *input_kinds(encoder)]): xp.where(
            known, shares, xp.astype(_nan(xp), shares.dtype)
        ),
    }


def civil(xp: Any, days: Any) -> tuple[Any, Any, Any, Any]:
    """Return year, month, weekday and day of the year of days, the last three from 0 on.

    It is integer arithmetic on floating-point numbers, in which it is exact, and NaN stays NaN. The year begins in
    March, so that a leap day is its last, and 400 of them have always 146,097 days.

    Parameters
    ----------
    xp : module
        The namespace of the days.
    days : array of float64
        Whole days since 1970, proleptic Gregorian.

    Returns
    -------
    year, month, weekday, day_of_year : arrays of float64

    References
    ----------
    .. [1] H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", 2021, ``civil_from_days``,
       https://howardhinnant.github.io/date_algorithms.html

    Examples
    --------
    >>> [float(part) for part in civil(np, np.float64(19782))]  # Thursday, 29 February 2024
    [2024.0, 1.0, 3.0, 59.0]
    """

    def over(a: Any, b: int) -> Any:
        return xp.floor(a / b)

    day = days + 719468.0  # since 1 March of the year 0
    era = over(day, 146097)
    day = day - era * 146097.0
    years = over(day - over(day, 1460) + over(day, 36524) - over(day, 146096), 365)
    day = day - (years * 365.0 + over(years, 4) - over(years, 100))
    month = over(day * 5.0 + 2.0, 153) + 2.0  # 2 is March
    late = month >= 12.0  # January and February
    year = years + era * 400.0 + xp.astype(late, xp.float64)
    leap = year - over(year, 4) * 4.0 == 0.0
    leap = leap & ((year - over(year, 100) * 100.0 != 0.0) | (year - over(year, 400) * 400.0 == 0.0))
    day_of_year = xp.where(late, day - 306.0, day + 59.0 + xp.astype(leap, xp.float64))
    since_monday = days + 3.0  # 1 January 1970 was a Thursday
    return year, xp.where(late, month - 12.0, month), since_monday - over(since_monday, 7) * 7.0, day_of_year


def _named(name: str) -> str:
    return name or "(no name)"  # in ONNX an empty name is no input


def _nan(xp: Any) -> Any:
    return xp.asarray(math.nan, dtype=xp.float64)


def _standardised(xp: Any, columns: Sequence[Any], x: Any, missing: Sequence[str]) -> Any:
    """Return the features of several columns of numbers."""
    for number in sorted(mark_numbers(missing)):
        x = xp.where(x == number, _nan(xp), x)
    mean, scale = (xp.asarray(np.array([[getattr(c, name) for c in columns]])) for name in ("mean", "scale"))
    return _filled(xp, xp.isfinite(x), (x - mean) / scale)


def _parts(xp: Any, column: Column, x: Any, missing: Sequence[str]) -> Iterator[Any]:
    """Yield the features of a column that holds no numbers, float64."""
    if isinstance(column, Category):
        other = len(column.levels) if column.other else -1
        place = xp.extensions.static_map(x, _places(column, missing), default=other)
        yield _one_hot(xp, place, len(column.features))
    elif isinstance(column, Dates):
        yield from _date_parts(xp, column, x)


def _date_parts(xp: Any, column: Dates, x: Any) -> Iterator[Any]:
    known = xp.isfinite(x)
    x = xp.where(known, x, _nan(xp))
    days = xp.floor(x)
    year, month, weekday, day_of_year = civil(xp, days)

    def on_circle(turns: Any) -> Any:
        angle = turns * (2 * math.pi)
        # the cosine is a sine too: ONNX Runtime has no other in float64
        return _filled(xp, known, xp.sin(xp.concat([angle, angle + math.pi / 2], axis=1)))

    middle = 1969.5 + column.mean / YEAR
    parts = {
        "day": lambda: _filled(xp, known, (x - column.mean) / column.scale),
        "year": lambda: _filled(xp, known, (year - middle) / (column.scale / YEAR)),
        "month": lambda: _one_hot(xp, month, 12),
        "weekday": lambda: _one_hot(xp, weekday, 7),
        "day of year": lambda: on_circle(day_of_year / YEAR),
        "time of day": lambda: on_circle(x - days),
    }
    for part in column.parts:
        yield parts[part]()
    if column.missing:
        yield xp.astype(~known, xp.float64)


def _filled(xp: Any, known: Any, x: Any) -> Any:
    return xp.where(known, x, xp.asarray(0.0, dtype=xp.float64))


def _one_hot(xp: Any, place: Any, n: int) -> Any:
    """Return 1 in the place of each row, and 0 elsewhere; -1 and NaN have none."""
    return xp.astype(place == xp.astype(xp.asarray(np.arange(n)[None, :]), place.dtype), xp.float64)


def _places(column: Category, missing: Sequence[str]) -> dict[Any, int]:
    """Return the place of each value, alike however it is spelled: 1, 1.0 and "1"; true, True and 1."""
    absent = len(column.features) - 1 if column.missing else -1
    numbers = mark_numbers(missing)
    if column.of == "number":
        places = {float(level): place for place, level in enumerate(column.levels)}
        if len(places) < len(column.levels):
            raise ValueError(f"{column.name} has numbers that float64 does not tell apart: export without its table")
        return {**dict.fromkeys([math.nan, *numbers], absent), **places}
    marks = ["", *missing, *(text for n in numbers if n.is_integer() for text in _with_zeros(str(int(n))))]
    plain = [re.sub(r"^([+-]?[0-9]+)\.0*$", r"\1", level) for level in column.levels]
    spelled: dict[Any, int] = {}
    for place, level in enumerate(plain if len(set(plain)) == len(plain) else ()):
        texts = [level]
        if column.of == "boolean":
            texts += [level.title(), level.upper(), {"true": "1", "false": "0"}.get(level, level)]
        spelled |= {other: place for text in texts for other in _with_zeros(text)}
    return dict.fromkeys(marks, absent) | spelled | {level: place for place, level in enumerate(column.levels)}


def _with_zeros(text: str) -> list[str]:
    """Return a text, and if it is a whole number, the same with the zeros of a column that has a gap."""
    return [text, f"{text}.", f"{text}.0"] if re.fullmatch(r"[+-]?[0-9]+", text) else [text]
