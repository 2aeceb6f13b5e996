"""What is learned from a column of a table: numbers are standardised, texts are one-hot encoded."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import numpy as np

from dense_xp.tables.errors import TableError, require_polars
from dense_xp.tables.texts import nearly_numbers, numerals, without_zero_decimals

if TYPE_CHECKING:
    import polars as pl


Host: TypeAlias = np.ndarray[Any, Any]


MAX_LEVELS = 100
"""How many values of a category get a feature of their own: the most frequent ones."""


_IDENTIFIER = re.compile(
    r"|#|unnamed: 0|level_0|obs|observation|s\.?no\.?|row[\s_.-]?(s|names?|num|numbers?|ids?|index)?"
    r"|(.*[\s_.-])?(ids?|uuid|guid|index|idx|key|no\.?|nr\.?|serial)",
    re.IGNORECASE | re.DOTALL,
)


_ROWS = 20  # fewer numbers may be in ascending order by chance


@dataclass(frozen=True)
class Number:
    """A column of numbers: (value - mean) / scale; a missing value counts as the mean.

    Attributes
    ----------
    name : str
        Of the column.
    mean, scale : float
        Mean and standard deviation of the training rows.
    missing : int
        How many of them had no number.
    """

    name: str
    mean: float
    scale: float
    missing: int = 0

    kind: ClassVar[str] = "number"

    def __post_init__(self) -> None:
        check_kind("name", self.name, str)
        check_kind("missing", self.missing, int)
        check_standard(self.name, self.mean, self.scale)

    @classmethod
    def fit(cls, column: pl.Series) -> Self | str:
        """Learn from a column; return why it is left out if there is nothing to learn."""
        values = numbers_of(column)
        known = values[np.isfinite(values)]
        if not len(known):
            return "no values"
        if known.min() == known.max():
            return f"constant, {known[0]:g}"
        with np.errstate(over="ignore", invalid="ignore"):
            mean, scale = float(known.mean()), float(known.std())
        if not (math.isfinite(mean) and 0 < scale < math.inf):
            return "too large, too small or too close to be standardised"
        return cls(column.name, mean, scale, len(values) - len(known))

    @property
    def features(self) -> list[str]:
        """The names of the features."""
        return [self.name]

    @property
    def report(self) -> str:
        """What was done with the column."""
        return f"mean {self.mean:.4g}, standard deviation {self.scale:.4g}{filled_text(self.missing, 'the mean')}"

    def encode(self, column: pl.Series, into: Host) -> None:
        """Write the feature of each row into an array of zeros."""
        numbers = numbers_of(column)
        with np.errstate(over="ignore"):  # too large for float32: infinite, and without a prediction
            into[:, 0] = np.where(np.isfinite(numbers), (numbers - self.mean) / self.scale, 0.0)

    def notes(self, column: pl.Series) -> Iterator[str]:
        """Yield a line if values are missing or new, and how they are encoded."""
        if missing := int((~np.isfinite(numbers_of(column))).sum()):
            yield f"{self.name}: no number in {counted(missing, 'row')}, taken as the mean {self.mean:.4g}"


@dataclass(frozen=True)
class Category:
    """A column of texts, one-hot encoded: 1 in the place of the row's value, and 0 elsewhere.

    Attributes
    ----------
    name : str
        Of the column.
    levels : sequence of str
        The values with a place of their own.
    of : {"text", "boolean", "number"}
        What the column held.
    other : bool
        Whether all other values share one more place. Without it, a value that is not in `levels` is 0 everywhere.
    missing : int
        How many of the training rows had no value: if any, a missing value has a place of its own.
    """

    name: str
    levels: Sequence[str]
    of: str = "text"
    other: bool = False
    missing: int = 0

    kind: ClassVar[str] = "category"

    def __post_init__(self) -> None:
        check_kind("name", self.name, str)
        check_kind("other", self.other, bool)
        check_kind("missing", self.missing, int)
        object.__setattr__(self, "levels", checked_labels(self.name, self.levels))
        check_of(self.of)

    @classmethod
    def fit(cls, column: pl.Series, max_levels: int = MAX_LEVELS, *, forced: bool = False) -> Self | str:
        """Learn from a column; return why it is left out if there is nothing to learn.

        A value has a place if it occurs at least twice, and is among the `max_levels` most frequent ones. A column is
        left out if these cover less than half of it, unless it is `forced` to be a category.
        """
        of = kind_of(column)
        texts = texts_of(column, of)
        known = texts.drop_nulls()
        counts = known.value_counts(name="n")
        if not counts.height:
            return "no values"
        frequent = sorted(counts.rows(), key=lambda row: (-row[1], row[0]))[:max_levels]
        frequent = [row for row in frequent if row[1] > 1] or (frequent if forced else [])
        covered = sum(count for _, count in frequent)
        if 2 * covered < len(known) and not forced:
            return f"{counts.height:,} different texts in {counted(len(known), 'row')}{nearly_numbers(known)}"
        other, missing = covered < len(known), len(texts) - len(known)
        if len(frequent) == 1 and not other and not missing:
            return f"constant, {frequent[0][0]!r}"
        return cls(column.name, sorted(level for level, _ in frequent), of, other, missing)

    @property
    def features(self) -> list[str]:
        """The names of the features."""
        rest = [f"{self.name}: other"] * self.other + [f"{self.name}: missing"] * bool(self.missing)
        return [f"{self.name}={level}" for level in self.levels] + rest

    @property
    def report(self) -> str:
        """What was done with the column."""
        other = " and others" if self.other else ""
        return f"{len(self.levels)} values{other}{filled_text(self.missing, 'a value of its own')}"

    def encode(self, column: pl.Series, into: Host) -> None:
        """Write the features of each row into an array of zeros."""
        texts = texts_of(column, self.of)
        places = codes_of(texts, self.levels)
        absent = texts.is_null().to_numpy()
        if self.other:
            places = np.where((places < 0) & ~absent, len(self.levels), places)
        if self.missing:
            places = np.where(absent, into.shape[1] - 1, places)
        rows = np.flatnonzero(places >= 0)
        into[rows, places[rows]] = 1.0

    def notes(self, column: pl.Series) -> Iterator[str]:
        """Yield a line if values are missing or new, and how they are encoded."""
        texts = texts_of(column, self.of)
        absent = texts.is_null().to_numpy()
        if absent.any() and not self.missing:
            yield f"{self.name}: no value in {counted(int(absent.sum()), 'row')}, taken as none of the known ones"
        new = (codes_of(texts, self.levels) < 0) & ~absent
        if new.any() and not self.other:
            first = texts[int(np.argmax(new))]
            rows = counted(int(new.sum()), "row")
            yield f"{self.name}: new values, such as {first!r}, in {rows}, taken as none of the known ones"


def identifies(column: pl.Series) -> str:
    """Return why a column of numbers only identifies the rows; an empty text if it does not."""
    known = (column.fill_nan(None) if column.dtype.is_float() else column).drop_nulls()
    if not len(known) or not are_whole(known):
        return ""
    different = known.n_unique()
    if _IDENTIFIER.fullmatch(column.name) or column.name.endswith(("Id", "ID")):
        if different == len(known):
            return "every value differs, and its name is that of an identifier"
        if 2 * different > len(known):
            return "nearly every value differs, and its name is that of an identifier"
    # rows that are held out leave gaps
    counts = len(known) == len(column) >= _ROWS and (known.diff().drop_nulls() > 0).all()
    return "it counts the rows" if counts and known[0] >= 0 and known[-1] < 2 * len(known) else ""


def numbers_of(column: pl.Series) -> Host:
    """Return a column as float64, NaN for missing values."""
    pl = require_polars()
    if column.dtype == pl.String and (found := numerals(column.str.strip_chars())):
        column = column if (values := found.values()) is None else values
    numbers = column.cast(pl.Float64, strict=False) if not column.dtype.is_temporal() else None
    if numbers is None or numbers.null_count() > column.null_count():
        first = column[0] if numbers is None else column.filter(numbers.is_null() & column.is_not_null())[0]
        raise TableError(f"{column.name} holds {str(first)!r}, and must hold numbers")
    return np.asarray(numbers.to_numpy())


def holds_texts(column: pl.Series) -> bool:
    """Whether a column holds texts."""
    pl = require_polars()
    return isinstance(column.dtype, pl.String | pl.Boolean | pl.Categorical | pl.Enum)


def kind_of(column: pl.Series) -> str:
    """Return what kind of values a column has."""
    if column.dtype == require_polars().Boolean:
        return "boolean"
    return "number" if column.dtype.is_numeric() else "text"


def texts_of(column: pl.Series, of: str) -> pl.Series:
    """Return values as texts, the same for all spellings in files: 1, 1.0 and "1"; true, True and 1."""
    pl = require_polars()
    if column.dtype.is_nested() or column.dtype.is_temporal():
        raise TableError(f"{column.name} holds values of the type {column.dtype}, and must hold texts")
    if column.dtype.is_float():
        column = column.fill_nan(None)
    if column.dtype.is_float() and are_whole(column):
        column = column.cast(pl.Int64)
    texts = column.cast(pl.String)
    return (
        without_zero_decimals(texts.str.to_lowercase()).replace({"1": "true", "0": "false"})
        if of == "boolean"
        else texts
    )


def codes_of(texts: pl.Series, labels: Sequence[str]) -> Host:
    """Return the place of each text among the labels, or -1."""
    pl = require_polars()
    codes = texts.cast(pl.Enum(labels), strict=False)
    spelled = pl.Series([*labels], dtype=pl.String)
    plain = without_zero_decimals(spelled)
    if not plain.is_duplicated().any():  # a file with missing values in the column has 8001.0 for 8001
        others = without_zero_decimals(texts).cast(pl.Enum(plain), strict=False)
        codes = codes.to_physical().fill_null(others.to_physical())
    return np.asarray(codes.to_physical().cast(pl.Int64).fill_null(-1).to_numpy())


def are_whole(column: pl.Series) -> bool:
    """Whether numbers are all whole, as integers or as 1.0; missing ones do not count."""
    if column.dtype.is_integer():
        return True
    numbers = column.cast(require_polars().Float64).fill_nan(None)
    return bool(((numbers == numbers.floor()) & (numbers.abs() < 2.0**63)).all())


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> counted(1, "row"), counted(2000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{number:,} {noun}" + "s" * (number != 1)


def free_name(name: str, taken: Sequence[str]) -> str:
    """Return a name for a column of predictions that no other column has.

    Examples
    --------
    >>> free_name("price", ["price", "size"])
    'price_predicted'
    """
    while name in taken:
        name += "_predicted"
    return name


def filled_text(missing: int, what: str) -> str:
    """Say how many values were missing and are filled."""
    return f"; {missing:,} missing, taken as {what}" if missing else ""


def some_of(names: Sequence[str], most: int = 12) -> str:
    """Return names as a text, the first of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def check_kind(name: str, value: Any, kind: type) -> None:
    """Raise ValueError unless a value of a configuration is of this kind."""
    if type(value) is not kind or (isinstance(value, int) and value < 0):
        raise ValueError(f"{name} is {value!r}")


def check_standard(name: str, mean: Any, scale: Any) -> None:
    """Raise ValueError unless these are the mean and the standard deviation of a column."""
    if not (type(mean) is type(scale) is float and math.isfinite(mean) and 0 < scale < math.inf):
        raise ValueError(f"the column {name!r} has the mean {mean!r} and the scale {scale!r}")


def check_of(of: Any) -> None:
    """Raise ValueError unless it names a kind of values."""
    if of not in ("text", "boolean", "number"):
        raise ValueError(f"it holds {of!r}")


def checked_labels(name: str, labels: Any) -> tuple[str, ...]:
    """Return labels of a configuration, or raise ValueError."""
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"the column {name!r} has the labels {labels!r}")
    if len(set(labels)) < len(labels) or not labels:
        raise ValueError(f"the column {name!r} has no labels, or the same one twice")
    return tuple(labels)
