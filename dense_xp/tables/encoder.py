"""From a table to numbers and back, by what is learned from the columns of the training rows.

Numbers are standardised, and a missing one becomes the mean. Texts are one-hot encoded; dates and times become numbers
that grow and angles that repeat. The target is a class label, or a number that is standardised for training and scaled
back in predictions. An encoder holds plain values, so it is saved with the model; see :meth:`Encoder.get_config`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from dense_xp.tables.columns import MAX_LEVELS, Category, Host, Number, holds_texts, identifies
from dense_xp.tables.dates import Dates
from dense_xp.tables.errors import TableError, require_polars
from dense_xp.tables.rows import check_columns
from dense_xp.tables.targets import Classes, Quantity, Target, check_complete, make_target
from dense_xp.tables.texts import are_dates

if TYPE_CHECKING:
    import polars as pl


_KINDS: dict[str, Any] = {cls.kind: cls for cls in (Number, Category, Dates, Classes, Quantity)}

Column: TypeAlias = Number | Category | Dates


@dataclass(frozen=True)
class Encoder:
    """The encoding of all columns of a table.

    Attributes
    ----------
    columns : sequence of Number, Category or Dates
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

    columns: Sequence[Column]
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
            The column that is predicted, or what :func:`~dense_xp.tables.targets.make_target` made of it.
        drop : sequence of str
            Columns that are left out.
        categories : sequence of str
            Columns whose numbers are names, or that are categories in spite of many different texts.
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
        columns: list[Column] = []
        left_out: dict[str, str] = {}
        for column in frame:
            if column.name == target.name:
                continue
            if column.name in drop:
                found: Column | str = "as asked for"
            elif column.name in categories:
                found = Category.fit(column, max_levels, forced=True)
            else:
                found = _fit_column(column, max_levels, column.name in numbers)
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
        """The names of the features, in order."""
        return [feature for column in self.columns for feature in column.features]

    @property
    def texts(self) -> list[str]:
        """The columns whose values are texts, also where a file has numbers in them."""
        return [column.name for column in (*self.columns, self.target) if getattr(column, "of", "") == "text"]

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
            If a target is missing, or unknown to the model.
        """
        check_columns(frame, [self.target.name], ", which the model predicts")
        column = frame[self.target.name]
        check_complete(column)
        return self.target.encode(column)

    def decode(self, output: Host) -> pl.DataFrame:
        """Return predictions as a table.

        Parameters
        ----------
        output : numpy.ndarray, shape (n_rows, n_outputs)
            What the model returned: logits, or a standardised number.

        Returns
        -------
        polars.DataFrame
            The target under its name and in its unit; for classes also ``P(label)``, the probability of each.
        """
        return self.target.decode(output)

    def notes(self, frame: pl.DataFrame) -> list[str]:
        """Return a line for each column with missing or new values, and how these are encoded."""
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
            columns = [_from_config(column, Number, Category, Dates) for column in config["columns"]]
            left_out = {str(name): str(why) for name, why in config["left_out"].items()}
            return cls(columns, _from_config(config["target"], Classes, Quantity), left_out)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            text = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"its description of a table does not fit together: {text}") from error


def _fit_column(column: pl.Series, max_levels: int, is_number: bool) -> Column | str:
    """Return what is learned from a column, or why it is left out."""
    pl = require_polars()
    dtype = column.dtype
    if dtype.is_numeric():
        if not is_number and (why := identifies(column)):
            return f"{why} (--number uses it all the same)"
        return Number.fit(column)
    if is_number and (holds_texts(column) or dtype.is_temporal()):
        raise TableError(f"{column.name} holds {'dates' if dtype.is_temporal() else 'texts'}, and not numbers")
    if isinstance(dtype, pl.Date | pl.Datetime | pl.Time) or (dtype == pl.String and are_dates(column)):
        return Dates.fit(column)
    if holds_texts(column):
        return Category.fit(column, max_levels)
    return "no values" if column.null_count() == len(column) else f"values of the type {dtype} are not used"


def _config(part: Any) -> dict[str, Any]:
    values = {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(part).items()}
    return {"kind": part.kind, **values}


def _from_config(config: Any, *kinds: type) -> Any:
    values = dict(config)
    kind = _KINDS.get(str(values.pop("kind", None)))
    if kind not in kinds:
        raise ValueError(f"unknown kind {config.get('kind')!r}")
    return kind(**values)
