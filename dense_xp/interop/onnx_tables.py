"""From the columns of a table to the numbers of a network, and back, as part of an ONNX graph.

It does on symbolic arrays what :class:`~dense_xp.tables.Encoder` does: the same features in the same order. It does not
read files, so the notation of numbers is no part of it. A missing number or date is NaN, a missing text is empty.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dense_xp.layers.activations import Softmax
from dense_xp.tables.columns import Category, Number, free_name
from dense_xp.tables.dates import YEAR, Dates
from dense_xp.tables.encoder import Encoder
from dense_xp.tables.targets import Classes
from dense_xp.tables.texts import ZERO_DECIMALS, mark_numbers


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
    for kind, group in itertools.groupby(encoder.columns, type):
        columns: list[Any] = list(group)
        given = [inputs[_named(column.name)] for column in columns]
        if kind is Category:
            parts += [_place(xp, column, x, missing) for column, x in zip(columns, given, strict=True)]
        else:  # side by side, in few operations
            x = xp.concat(given, axis=1)
            parts += [_standardised(xp, columns, x, missing)] if kind is Number else _dates(xp, columns, x)
    return xp.astype(xp.concat(parts, axis=1), xp.float32)


def decoded(xp: Any, encoder: Encoder, output: Any) -> dict[str, Any]:
    """Return what the output of a network means, as symbolic arrays by name.

    Parameters
    ----------
    xp, encoder
        As in :func:`encoded`.
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
    """Return year, month, weekday and day of the year of days, the last three counted from 0.

    It is integer arithmetic on floating-point numbers, which are exact here; NaN stays NaN. Years begin in March, so
    that a leap day is the last of its year; 400 years always have 146,097 days.

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


def _standardised(xp: Any, columns: Sequence[Number], x: Any, missing: Sequence[str]) -> Any:
    """Return the features of columns of numbers."""
    for number in sorted(mark_numbers(missing)):
        x = xp.where(x == number, _nan(xp), x)
    mean, scale = _row(xp, (c.mean for c in columns)), _row(xp, (c.scale for c in columns))
    return _filled(xp, xp.isfinite(x), (x - mean) / scale)


def _place(xp: Any, column: Category, x: Any, missing: Sequence[str]) -> Any:
    """Return the features of a category."""
    other = len(column.levels) if column.other else -1
    return _one_hot(xp, xp.extensions.static_map(x, _places(column, missing), default=other), len(column.features))


def _dates(xp: Any, columns: Sequence[Dates], x: Any) -> Iterator[Any]:
    """Yield the features of columns of dates."""
    known = xp.isfinite(x)
    x = xp.where(known, x, _nan(xp))
    days = xp.floor(x)
    year, month, weekday, day_of_year = civil(xp, days)
    mean, scale = _row(xp, (c.mean for c in columns)), _row(xp, (c.scale for c in columns))
    absent = xp.astype(~known, xp.float64)

    def on_circle(turns: Any) -> list[Any]:
        # the cosine as a shifted sine: ONNX Runtime has none in float64
        return [_filled(xp, known, xp.sin(turns * (2 * math.pi) + start)) for start in (0.0, math.pi / 2)]

    parts = {
        "day": [_filled(xp, known, (x - mean) / scale)],
        "year": [_filled(xp, known, (year - (mean / YEAR + 1969.5)) / (scale / YEAR))],
        "month": [month],
        "weekday": [weekday],
        "day of year": on_circle(day_of_year / YEAR),
        "time of day": on_circle(x - days),
    }
    widths = {"month": 12, "weekday": 7}
    for i, column in enumerate(columns):
        for part in column.parts:
            own = [values[:, i : i + 1] for values in parts[part]]
            yield from (_one_hot(xp, place, widths[part]) for place in own) if part in widths else own
        if column.missing:
            yield absent[:, i : i + 1]


def _row(xp: Any, numbers: Iterable[float]) -> Any:
    return xp.asarray(np.array([[*numbers]]))


def _filled(xp: Any, known: Any, x: Any) -> Any:
    return xp.where(known, x, xp.asarray(0.0, dtype=xp.float64))


def _one_hot(xp: Any, place: Any, n: int) -> Any:
    """One-hot encode the place of each row; -1 and NaN have none."""
    return xp.astype(place == xp.astype(xp.asarray(np.arange(n)[None, :]), place.dtype), xp.float64)


def _places(column: Category, missing: Sequence[str]) -> dict[Any, int]:
    """Return the place of each value in all its spellings: 1, 1.0 and "1"; true, True and 1."""
    absent = len(column.features) - 1 if column.missing else -1
    numbers = mark_numbers(missing)
    if column.of == "number":
        places = {float(level): place for place, level in enumerate(column.levels)}
        if len(places) < len(column.levels):
            raise ValueError(f"{column.name} has numbers that float64 does not tell apart: export without its table")
        return {**dict.fromkeys([math.nan, *numbers], absent), **places}
    marks = ["", *missing, *(text for n in numbers if n.is_integer() for text in _with_zeros(str(int(n))))]
    plain = [re.sub(ZERO_DECIMALS, r"\1", level) for level in column.levels]
    spelled: dict[Any, int] = {}
    for place, level in enumerate(plain if len(set(plain)) == len(plain) else ()):
        texts = [level]
        if column.of == "boolean":
            texts += [level.title(), level.upper(), {"true": "1", "false": "0"}.get(level, level)]
        spelled |= {other: place for text in texts for other in _with_zeros(text)}
    return dict.fromkeys(marks, absent) | spelled | {level: place for place, level in enumerate(column.levels)}


def _with_zeros(text: str) -> list[str]:
    """Return a text, and if it is a whole number, also its spellings with a decimal point."""
    return [text, f"{text}.", f"{text}.0"] if re.fullmatch(r"[+-]?[0-9]+", text) else [text]
