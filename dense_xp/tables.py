"""The way from a table to numbers and back: what is learned from the columns of the training rows.

Numbers are brought to mean 0 and standard deviation 1, and a missing one becomes the mean. Texts become one column for
each value, 1 where the row has it. The target is a class by its name, or a number that is standardised, and undone in
what is predicted. All of it is plain values, so it is saved with the model; see :meth:`Encoder.get_config`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import numpy as np

from dense_xp.support.registry import by_name
from dense_xp.table_files import TableError, require_polars

if TYPE_CHECKING:
    import polars as pl

Host: TypeAlias = np.ndarray[Any, Any]

MAX_LEVELS = 100
"""How many values of a category get a column of their own; the most frequent do."""

_MAX_CLASSES = 20
_IDENTIFIER = re.compile(r"|index|row|unnamed: 0|(.*[\s_-])?id", re.IGNORECASE | re.DOTALL)


# ------------------------------------------------------------------------------------- columns


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
        _check("name", self.name, str)
        _check("mean", self.mean, float)
        _check("scale", self.scale, float)
        _check("missing", self.missing, int)
        if not (math.isfinite(self.mean) and 0 < self.scale < math.inf):
            raise ValueError(f"the column {self.name!r} has the mean {self.mean} and the scale {self.scale}")

    @classmethod
    def fit(cls, column: pl.Series) -> Self | str:
        """Learn from a column; return why it is left out if there is nothing to learn."""
        values = _numbers(column)
        known = values[np.isfinite(values)]
        if not len(known):
            return "no values"
        if known.min() == known.max():
            return f"constant, {known[0]:g}"
        with np.errstate(over="ignore", invalid="ignore"):
            mean, scale = float(known.mean()), float(known.std())
        if not (math.isfinite(mean) and 0 < scale < math.inf):
            raise TableError(f"{column.name}: the numbers are too large, too small or too close to be standardised")
        return cls(column.name, mean, scale, len(values) - len(known))

    @property
    def features(self) -> list[str]:
        """The names of what the network sees."""
        return [self.name]

    @property
    def report(self) -> str:
        """What was done with the column."""
        return f"mean {self.mean:.4g}, standard deviation {self.scale:.4g}{_filled(self.missing, 'the mean')}"

    def encode(self, column: pl.Series, into: Host) -> None:
        """Write the feature of each row into an array of zeros."""
        values = (_numbers(column) - self.mean) / self.scale
        into[:, 0] = np.where(np.isfinite(values), values, 0.0)

    def notes(self, column: pl.Series) -> Iterator[str]:
        """Say what is taken for something else."""
        if missing := int((~np.isfinite(_numbers(column))).sum()):
            yield f"{self.name}: no number in {counted(missing, 'row')}, taken as the mean {self.mean:.4g}"


@dataclass(frozen=True)
class Category:
    """A column of texts: 1 in the place of the row's value, and 0 elsewhere.

    Attributes
    ----------
    name : str
        Of the column.
    levels : sequence of str
        The values with a place of their own.
    of : {"text", "boolean", "number"}
        What the column held.
    other : bool
        Whether the other values have a place together. Without one, a value that is not in `levels` is 0 everywhere.
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
        _check("name", self.name, str)
        _check("other", self.other, bool)
        _check("missing", self.missing, int)
        object.__setattr__(self, "levels", _labels(self.name, self.levels))
        _check_of(self.of)

    @classmethod
    def fit(cls, column: pl.Series, max_levels: int = MAX_LEVELS, *, forced: bool = False) -> Self | str:
        """Learn from a column; return why it is left out if there is nothing to learn.

        A value has a place if it occurs at least twice, and is among the `max_levels` most frequent ones. A column of
        which less than half is covered so is left out, unless it is `forced` to be a category.
        """
        of = _of(column)
        texts = _texts(column, of)
        known = texts.drop_nulls()
        counts = known.value_counts(name="n")
        if not counts.height:
            return "no values"
        frequent = sorted(counts.rows(), key=lambda row: (-row[1], row[0]))[:max_levels]
        frequent = [row for row in frequent if row[1] > 1] or (frequent if forced else [])
        covered = sum(count for _, count in frequent)
        if 2 * covered < len(known) and not forced:
            return f"{counts.height:,} different texts in {counted(len(known), 'row')}{_nearly_numbers(known)}"
        other, missing = covered < len(known), len(texts) - len(known)
        if len(frequent) == 1 and not other and not missing:
            return f"constant, {frequent[0][0]!r}"
        return cls(column.name, sorted(level for level, _ in frequent), of, other, missing)

    @property
    def features(self) -> list[str]:
        """The names of what the network sees."""
        rest = [f"{self.name}: other"] * self.other + [f"{self.name}: missing"] * bool(self.missing)
        return [f"{self.name}={level}" for level in self.levels] + rest

    @property
    def report(self) -> str:
        """What was done with the column."""
        other = " and others" if self.other else ""
        return f"{len(self.levels)} values{other}{_filled(self.missing, 'a value of its own')}"

    def encode(self, column: pl.Series, into: Host) -> None:
        """Write the features of each row into an array of zeros."""
        texts = _texts(column, self.of)
        places = _codes(texts, self.levels)
        absent = texts.is_null().to_numpy()
        if self.other:
            places = np.where((places < 0) & ~absent, len(self.levels), places)
        if self.missing:
            places = np.where(absent, into.shape[1] - 1, places)
        rows = np.flatnonzero(places >= 0)
        into[rows, places[rows]] = 1.0

    def notes(self, column: pl.Series) -> Iterator[str]:
        """Say what is taken for something else."""
        texts = _texts(column, self.of)
        absent = texts.is_null().to_numpy()
        if absent.any() and not self.missing:
            yield f"{self.name}: no value in {counted(int(absent.sum()), 'row')}, taken as none of the known ones"
        new = (_codes(texts, self.levels) < 0) & ~absent
        if new.any() and not self.other:
            first = texts[int(np.argmax(new))]
            rows = counted(int(new.sum()), "row")
            yield f"{self.name}: new values, such as {first!r}, in {rows}, taken as none of the known ones"


@dataclass(frozen=True)
class Classes:
    """A target that is one of several classes.

    Attributes
    ----------
    name : str
        Of the column.
    labels : sequence of str
        The classes in the order of the model's outputs.
    of : {"text", "boolean", "number"}
        What the column held, and what is predicted.
    """

    name: str
    labels: Sequence[str]
    of: str = "text"

    kind: ClassVar[str] = "classes"

    def __post_init__(self) -> None:
        _check("name", self.name, str)
        object.__setattr__(self, "labels", _labels(self.name, self.labels))
        _check_of(self.of)
        if len(self.labels) < 2:
            raise ValueError(f"the target {self.name!r} has {len(self.labels)} classes")

    @classmethod
    def fit(cls, column: pl.Series) -> Self:
        """Learn the classes from a column without missing values."""
        of = _of(column)
        labels = _texts(column, of).unique().to_list()
        if len(labels) < 2:
            raise TableError(f"{column.name} is {labels[0]!r} in every row: there is nothing to tell apart")
        return cls(column.name, sorted(labels, key=float if of == "number" else str), of)

    @property
    def n_outputs(self) -> int:
        """How many outputs the model has: a logit for each class."""
        return len(self.labels)

    def encode(self, column: pl.Series) -> Host:
        """Return the number of each row's class."""
        texts = _texts(column, self.of)
        codes = _codes(texts, self.labels)
        if (codes < 0).any():
            row = int(np.argmax(codes < 0))
            raise TableError(
                f"{self.name} is {texts[row]!r} in row {row + 1}, and the model knows the classes "
                f"{_some(list(self.labels))}"
            )
        return codes

    def decode(self, output: Host) -> pl.DataFrame:
        """Return the most probable class of each row, and the probability of each class."""
        pl = require_polars()
        p = _softmax(output)
        labels = pl.Series(self.name, self.labels).gather(p.argmax(axis=1))
        if self.of == "boolean":
            labels = labels == "true"
        elif self.of == "number":
            whole = all(re.fullmatch(r"-?\d+", label) for label in self.labels)
            labels = labels.cast(pl.Int64 if whole else pl.Float64)
        columns = [pl.Series(f"P({label})", p[:, i].astype("float32")) for i, label in enumerate(self.labels)]
        return pl.DataFrame([labels.alias(self.name), *columns])


@dataclass(frozen=True)
class Quantity:
    """A target that is a number: the model predicts (value - mean) / scale.

    Attributes
    ----------
    name : str
        Of the column.
    mean, scale : float
        Mean and standard deviation of the training rows.
    """

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
        return (_numbers(column) - self.mean) / self.scale

    def decode(self, output: Host) -> pl.DataFrame:
        """Return the predicted number of each row, to the digits that single precision has."""
        values = output[:, 0].astype("float64") * self.scale + self.mean
        return require_polars().DataFrame({self.name: np.round(values, 8 - math.floor(math.log10(self.scale)))})


Target: TypeAlias = Classes | Quantity
_KINDS: dict[str, Any] = {cls.kind: cls for cls in (Number, Category, Classes, Quantity)}


def _softmax(logits: Host) -> Host:
    exponential = np.exp(logits.astype("float64") - logits.max(axis=1, keepdims=True))
    return np.asarray(exponential / exponential.sum(axis=1, keepdims=True))


# ------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Encoder:
    """All columns of a table, as a network sees them.

    Attributes
    ----------
    columns : sequence of Number or Category
        Those that are used, in the order of the features.
    target : Classes or Quantity
        What is predicted.
    left_out : dict of str to str
        Why each other column is not used.

    Examples
    --------
    >>> import polars as pl
    >>> sizes, kinds = [1.0, 2.0, None, 3.0], ["a", "b", "a", "b"]
    >>> table = pl.DataFrame({"size": sizes, "kind": kinds, "price": [1.5, 2.5, 1.6, 3.4]})
    >>> encoder = Encoder.fit(table, "price")
    >>> encoder.features
    ['size', 'kind=a', 'kind=b']
    >>> encoder.encode(table)[2]
    array([0., 1., 0.], dtype=float32)
    >>> Encoder.from_config(encoder.get_config()) == encoder
    True
    """

    columns: Sequence[Number | Category]
    target: Target
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if not names or len({*names, self.target.name}) <= len(names):
            raise ValueError("it has no columns, or two with the same name")
        object.__setattr__(self, "columns", tuple(self.columns))

    @classmethod
    def fit(
        cls,
        frame: pl.DataFrame,
        target: str | Target,
        *,
        drop: Sequence[str] = (),
        categories: Sequence[str] = (),
        numbers: Sequence[str] = (),
        max_levels: int = MAX_LEVELS,
    ) -> Self:
        """Learn from the rows that a model will be trained on.

        Parameters
        ----------
        frame : polars.DataFrame
            These rows.
        target : str, Classes or Quantity
            The column that is predicted, or what :func:`make_target` made of it.
        drop : sequence of str
            Columns that are left out.
        categories : sequence of str
            Columns whose numbers are names, or whose many texts are categories all the same.
        numbers : sequence of str
            Columns of numbers that are used though they look like identifiers.
        max_levels : int, default 100
            How many values of a category get a feature of their own.

        Raises
        ------
        TableError
            If a column is not there, or none is left.
        """
        if isinstance(target, str):
            check_columns(frame, [target])
            target = make_target(frame[target])
        check_columns(frame, [*drop, *categories, *numbers])
        columns: list[Number | Category] = []
        left_out: dict[str, str] = {}
        for column in frame:
            if column.name == target.name:
                continue
            if column.name in drop:
                found: Number | Category | str = "as asked for"
            elif column.name in categories:
                found = Category.fit(column, max_levels, forced=True)
            else:
                found = _fit(column, max_levels, column.name in numbers)
            if isinstance(found, str):
                left_out[column.name] = found
            else:
                columns.append(found)
        if not columns:
            why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
            raise TableError(f"no column is left to learn {target.name} from" + (f" ({why})" if why else ""))
        return cls(columns, target, left_out)

    @property
    def features(self) -> list[str]:
        """The names of what the network sees, in order."""
        return [feature for column in self.columns for feature in column.features]

    def encode(self, frame: pl.DataFrame) -> Host:
        """Return the features of each row; columns are found by name, and others are ignored.

        Returns
        -------
        numpy.ndarray of float32, shape (n_rows, n_features)

        Raises
        ------
        TableError
            If a column is missing, or holds texts where there were numbers.
        """
        check_columns(frame, [column.name for column in self.columns], ", which the model needs")
        X = np.zeros((frame.height, len(self.features)), dtype="float32")
        at = 0
        for column in self.columns:
            width = len(column.features)
            column.encode(frame[column.name], X[:, at : at + width])
            at += width
        return X

    def encode_target(self, frame: pl.DataFrame) -> Host:
        """Return what the model should predict for each row: the number of a class, or a standardised number.

        Raises
        ------
        TableError
            If a target is missing, or is none that the model knows.
        """
        check_columns(frame, [self.target.name], ", which the model predicts")
        column = frame[self.target.name]
        _check_complete(column)
        return self.target.encode(column)

    def decode(self, output: Host) -> pl.DataFrame:
        """Return predictions as a table.

        Parameters
        ----------
        output : numpy.ndarray, shape (n_rows, n_outputs)
            What the model gave: logits, or a standardised number.

        Returns
        -------
        polars.DataFrame
            The target under its name and in its unit; for classes also ``P(label)``, the probability of each.
        """
        return self.target.decode(output)

    def notes(self, frame: pl.DataFrame) -> list[str]:
        """Return a line for each column with values that are taken for something else: missing or new ones."""
        return [note for column in self.columns for note in column.notes(frame[column.name])]

    def report(self) -> list[tuple[str, str, str]]:
        """Return name, kind and treatment of each column, in words."""
        used = [(column.name, column.kind, column.report) for column in self.columns]
        rows = used + [(name, "left out", why) for name, why in self.left_out.items()]
        return [(name or "(no name)", kind, text) for name, kind, text in rows]

    # --------------------------------------------------------------------------------- as plain values

    def get_config(self) -> dict[str, Any]:
        """Return all of it as plain values, for JSON."""
        return {
            "columns": [_config(column) for column in self.columns],
            "target": _config(self.target),
            "left_out": dict(self.left_out),
        }

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Make an encoder from what :meth:`get_config` returned.

        Raises
        ------
        ValueError
            If it is anything else.
        """
        try:
            columns = [_from_config(column, Number, Category) for column in config["columns"]]
            left_out = {str(name): str(why) for name, why in config["left_out"].items()}
            return cls(columns, _from_config(config["target"], Classes, Quantity), left_out)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            text = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"its description of a table does not fit together: {text}") from error


def _fit(column: pl.Series, max_levels: int, is_number: bool) -> Number | Category | str:
    dtype = column.dtype
    if dtype.is_temporal():
        return "dates and times are not used: make numbers of them, such as the year"
    if dtype.is_numeric():
        if not is_number and _is_identifier(column):
            return "every value differs, and its name is that of an identifier (--number uses it all the same)"
        return Number.fit(column)
    if _holds_texts(column):
        if is_number:
            raise TableError(f"{column.name} holds texts, and not numbers")
        return Category.fit(column, max_levels)
    return "no values" if column.null_count() == len(column) else f"values of the type {dtype} are not used"


def _is_identifier(column: pl.Series) -> bool:
    named = bool(_IDENTIFIER.fullmatch(column.name)) or column.name.endswith(("Id", "ID"))
    return named and bool(column.dtype.is_integer()) and bool(column.n_unique() == len(column))


# ------------------------------------------------------------------------------------- the target and the rows


def task_of(column: pl.Series) -> tuple[str, str]:
    """Return whether a target means classification or regression, and why.

    Texts and booleans are classes; so are whole numbers with at most 20 different values, each of them in two rows on
    average. Other numbers are quantities.

    Examples
    --------
    >>> import polars as pl
    >>> task_of(pl.Series("grade", [1, 2, 2, 1]))
    ('classification', 'whole numbers with 2 different values')
    """
    dtype = column.dtype
    if dtype.is_temporal():
        raise TableError(f"the target {column.name} holds dates or times: make numbers of them")
    if not dtype.is_numeric():
        if not _holds_texts(column):
            raise TableError(f"the target {column.name} is of the type {dtype}: it must hold numbers or texts")
        return "classification", "yes and no" if dtype == require_polars().Boolean else "texts"
    if not dtype.is_integer():
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
        If a target is missing, all are the same, or they are texts that can be no classes.
    """
    _check_complete(column)
    found, _ = task_of(column)
    if by_name("task", {"classification": True, "regression": False}, task or found):
        many = column.n_unique() > max(_MAX_CLASSES, len(column) // 2)
        if many and task is None and column.dtype == require_polars().String:
            raise TableError(
                f"the target {column.name} has {column.n_unique():,} different texts in {counted(len(column), 'row')}, "
                f"too many for classes{_nearly_numbers(column)} (--task classification takes them all the same)"
            )
        return Classes.fit(column)
    return Quantity.fit(column)


def split(n_rows: int, share: float, seed: int, codes: Host | None = None) -> tuple[Host, Host]:
    """Divide rows into those to learn from and those that are held out, each in their order.

    Parameters
    ----------
    n_rows : int
        How many there are.
    share : float
        What share is held out; 0 holds out none, and anything else at least one.
    seed : int
        Fixes which.
    codes : numpy.ndarray of int, shape (n_rows,), optional
        The class of each row: the share is then taken of each class, and never all of one.

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
    # at equal distances in the order of the classes: from each its share, and small ones are not forgotten
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
    import difflib

    known = {column.lower(): column for column in frame.columns}
    for name in names:
        if name not in frame.columns:
            near = difflib.get_close_matches(name.lower(), known, 1, 0.6)
            hint = f"; did you mean {known[near[0]]!r}?" if near else "."
            raise TableError(f"there is no column {name!r}{what}{hint} There are: {_some(frame.columns)}")


# ------------------------------------------------------------------------------------- values


def _numbers(column: pl.Series) -> Host:
    """Return a column as float64, NaN where there is nothing."""
    pl = require_polars()
    numbers = column.cast(pl.Float64, strict=False) if not column.dtype.is_temporal() else None
    if numbers is None or numbers.null_count() > column.null_count():
        first = column[0] if numbers is None else column.filter(numbers.is_null() & column.is_not_null())[0]
        raise TableError(f"{column.name} holds {str(first)!r}, and must hold numbers")
    return np.asarray(numbers.to_numpy())


def _holds_texts(column: pl.Series) -> bool:
    pl = require_polars()
    return isinstance(column.dtype, pl.String | pl.Boolean | pl.Categorical | pl.Enum)


def _of(column: pl.Series) -> str:
    if column.dtype == require_polars().Boolean:
        return "boolean"
    return "number" if column.dtype.is_numeric() else "text"


def _texts(column: pl.Series, of: str) -> pl.Series:
    """Return values as texts, alike however the file at hand spells them: 1, 1.0 and "1"; true and True."""
    pl = require_polars()
    if column.dtype.is_nested() or column.dtype.is_temporal():
        raise TableError(f"{column.name} holds values of the type {column.dtype}, and must hold texts")
    if column.dtype.is_float():
        column = column.fill_nan(None)
        whole = column.cast(pl.Int64, strict=False)
        if whole.null_count() == column.null_count() and (whole == column).all():
            column = whole
    texts = column.cast(pl.String)
    return texts.str.to_lowercase() if of == "boolean" else texts


def _codes(texts: pl.Series, labels: Sequence[str]) -> Host:
    """Return the place of each text among the labels, or -1."""
    pl = require_polars()
    codes = texts.cast(pl.Enum(labels), strict=False).to_physical().cast(pl.Int64)
    return np.asarray(codes.fill_null(-1).to_numpy())


def _nearly_numbers(texts: pl.Series) -> str:
    """Return a hint if all but a few texts are numbers: then one value spoils a whole column."""
    pl = require_polars()
    numbers = texts.cast(pl.Float64, strict=False)
    if not 0 < numbers.null_count() <= 0.1 * len(texts):
        return ""
    first = texts.filter(numbers.is_null())[0]
    return f", though nearly all are numbers: if {first!r} stands for a missing value, say --missing {first!r}"


def _check_complete(column: pl.Series) -> None:
    absent = column.is_null()
    if column.dtype.is_float():
        absent = absent | ~column.fill_null(0.0).is_finite()
    if count := int(absent.sum()):
        raise TableError(
            f"the target {column.name} is missing in {counted(count, 'row')}, first in row {absent.arg_max() + 1}: "
            "fill it in, or take these rows out"
        )


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> counted(1, "row"), counted(2000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{number:,} {noun}" + "s" * (number != 1)


def _filled(missing: int, what: str) -> str:
    return f"; {missing:,} missing, taken as {what}" if missing else ""


def _some(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


# ------------------------------------------------------------------------------------- plain values


def _config(part: Any) -> dict[str, Any]:
    values = {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(part).items()}
    return {"kind": part.kind, **values}


def _from_config(config: Any, *kinds: type) -> Any:
    values = dict(config)
    kind = _KINDS.get(str(values.pop("kind", None)))
    if kind not in kinds:
        raise ValueError(f"unknown kind {config.get('kind')!r}")
    return kind(**values)


def _check(name: str, value: Any, kind: type) -> None:
    if type(value) is not kind or (isinstance(value, int) and value < 0):
        raise ValueError(f"{name} is {value!r}")


def _check_of(of: Any) -> None:
    if of not in ("text", "boolean", "number"):
        raise ValueError(f"it holds {of!r}")


def _labels(name: str, labels: Any) -> tuple[str, ...]:
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"the column {name!r} has the labels {labels!r}")
    if len(set(labels)) < len(labels) or not labels:
        raise ValueError(f"the column {name!r} has no labels, or the same one twice")
    return tuple(labels)
