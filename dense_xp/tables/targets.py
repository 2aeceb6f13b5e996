"""Targets: a class label, or a number that is standardised for training and scaled back in predictions."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self, TypeAlias

import numpy as np

from dense_xp.learning.special import log_softmax
from dense_xp.support.registry import by_name
from dense_xp.tables.columns import (
    Host,
    Number,
    are_whole,
    check_kind,
    check_of,
    checked_labels,
    codes_of,
    counted,
    free_name,
    holds_texts,
    kind_of,
    numbers_of,
    some_of,
    texts_of,
)
from dense_xp.tables.errors import TableError, require_polars
from dense_xp.tables.texts import are_dates, nearly_numbers

if TYPE_CHECKING:
    import polars as pl


_MAX_CLASSES = 20


@dataclass(frozen=True)
class Classes:
    """A target that is one of several classes.

    Attributes
    ----------
    name, of
        As in :class:`~dense_xp.tables.columns.Category`; predictions have the type of the column.
    labels : sequence of str
        The classes in the order of the model's outputs.
    """

    name: str
    labels: Sequence[str]
    of: str = "text"

    kind: ClassVar[str] = "classes"

    def __post_init__(self) -> None:
        check_kind("name", self.name, str)
        object.__setattr__(self, "labels", checked_labels(self.name, self.labels))
        check_of(self.of)
        if len(self.labels) < 2:
            raise ValueError(f"the target {self.name!r} has {len(self.labels)} classes")

    @classmethod
    def fit(cls, column: pl.Series) -> Self:
        """Learn the classes from a column without missing values."""
        of = kind_of(column)
        labels = texts_of(column, of).unique().to_list()
        if len(labels) < 2:
            raise TableError(f"{column.name} is {labels[0]!r} in every row: there is nothing to tell apart")
        return cls(column.name, sorted(labels, key=float if of == "number" else str), of)

    @property
    def n_outputs(self) -> int:
        """How many outputs the model has: a logit for each class."""
        return len(self.labels)

    def encode(self, column: pl.Series) -> Host:
        """Return the number of each row's class, -1 where it is missing."""
        texts = texts_of(column, self.of)
        codes = codes_of(texts, self.labels)
        new = (codes < 0) & texts.is_not_null().to_numpy()
        if new.any():
            row = int(np.argmax(new))
            raise TableError(
                f"{self.name} is {texts[row]!r} in row {row + 1}, and the model knows the classes "
                f"{some_of(list(self.labels))}"
            )
        return codes

    def decode(self, output: Host) -> pl.DataFrame:
        """Return the most probable class of each row, and the probability of each class; null without these."""
        pl = require_polars()
        with np.errstate(invalid="ignore"):
            p = log_softmax(output.astype("float64"))[1]
        absent = ~np.isfinite(p).all(axis=1)
        labels = pl.Series(self.name, self.labels).gather(p.argmax(axis=1))
        if self.of == "boolean":
            labels = labels == "true"
        elif self.of == "number":
            whole = all(re.fullmatch(r"-?\d+", label) for label in self.labels)
            labels = labels.cast(pl.Int64 if whole else pl.Float64)
        names = [free_name(f"P({label})", [self.name]) for label in self.labels]
        columns = [pl.Series(name, p[:, i].astype("float32")) for i, name in enumerate(names)]
        return pl.DataFrame([labels.alias(self.name), *columns]).with_columns(
            pl.when(~pl.lit(pl.Series(absent))).then(pl.all())
        )


@dataclass(frozen=True)
class Quantity:
    """A target that is a number: the model predicts (value - mean) / scale; the attributes are those of a `Number`."""

    name: str
    mean: float
    scale: float

    kind: ClassVar[str] = "quantity"
    n_outputs: ClassVar[int] = 1

    def __post_init__(self) -> None:
        Number(self.name, self.mean, self.scale)

    @classmethod
    def fit(cls, column: pl.Series) -> Self:
        """Learn from a column without missing values."""
        found = Number.fit(column)
        if isinstance(found, str):
            raise TableError(f"the target {column.name} is {found} in the training rows: there is nothing to learn")
        return cls(found.name, found.mean, found.scale)

    def encode(self, column: pl.Series) -> Host:
        """Return the standardised target of each row."""
        return (numbers_of(column) - self.mean) / self.scale

    def decode(self, output: Host) -> pl.DataFrame:
        """Return the predicted number of each row, rounded to the digits of single precision, or null."""
        with np.errstate(over="ignore", invalid="ignore"):
            values = output[:, 0].astype("float64") * self.scale + self.mean
            digits = np.round(values, 8 - math.floor(math.log10(self.scale)))
        values = np.where(np.isfinite(digits), digits, values)  # the power of ten may overflow
        predicted = require_polars().Series(self.name, np.where(np.isfinite(values), values, np.nan))
        return require_polars().DataFrame([predicted.fill_nan(None)])


Target: TypeAlias = Classes | Quantity


def task_of(column: pl.Series) -> tuple[str, str]:
    """Return whether a target means classification or regression, and why.

    Texts and booleans are classes; so are whole numbers, 1 or 1.0, with at most 20 different values, each of them in
    two rows on average. Other numbers are quantities.

    Examples
    --------
    >>> import polars as pl
    >>> task_of(pl.Series("grade", [1, 2, 2, 1]))
    ('classification', 'whole numbers with 2 different values')
    """
    dtype = column.dtype
    if dtype.is_temporal() or (dtype == require_polars().String and are_dates(column)):
        raise TableError(f"the target {column.name} holds dates or times: make numbers of them")
    if not dtype.is_numeric():
        if not holds_texts(column):
            raise TableError(f"the target {column.name} is of the type {dtype}: it must hold numbers or texts")
        return "classification", "yes and no" if dtype == require_polars().Boolean else "texts"
    if not are_whole(column):
        return "regression", "numbers with decimals"
    different = column.n_unique()
    if different <= max(2, min(_MAX_CLASSES, len(column) // 2)):
        return "classification", f"whole numbers with {different} different values"
    return "regression", f"whole numbers with {different:,} different values"


def make_target(column: pl.Series, task: str | None = None) -> Target:
    """Learn from a target.

    Parameters
    ----------
    column : polars.Series
        The target of the training rows.
    task : {"classification", "regression"}, optional
        By default as :func:`task_of` finds it.

    Raises
    ------
    TableError
        If a target is missing, all are the same, or they are too many different texts for classes.
    """
    check_complete(column)
    found, _ = task_of(column)
    if by_name("task", {"classification": True, "regression": False}, task or found):
        many = column.n_unique() > max(_MAX_CLASSES, len(column) // 2)
        if many and task is None and column.dtype == require_polars().String:
            raise TableError(
                f"the target {column.name} has {column.n_unique():,} different texts in {counted(len(column), 'row')}, "
                f"too many for classes{nearly_numbers(column)} (--task classification takes them all the same)"
            )
        return Classes.fit(column)
    return Quantity.fit(column)


def check_complete(column: pl.Series) -> None:
    """Raise TableError if a value of the target is missing."""
    absent = ~_is_known(column)
    if count := int(absent.sum()):
        raise TableError(
            f"the target {column.name} is missing in {counted(count, 'row')}, first in row {absent.arg_max() + 1}: "
            "fill it in, or take these rows out"
        )


def rows_with_target(frame: pl.DataFrame, name: str) -> pl.Series:
    """Return for each row whether its target is there and finite; raise TableError if none is."""
    known = _is_known(frame[name])
    if not known.any():
        raise TableError(f"the target {name} is missing in every row")
    return known


def _is_known(column: pl.Series) -> pl.Series:
    known = column.is_not_null()
    return known & column.is_finite().fill_null(False) if column.dtype.is_float() else known
