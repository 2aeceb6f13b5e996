"""Parquet files that may be larger than memory: read by row groups, or one column at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dense_xp.support.checks import integer
from dense_xp.tables.columns import Host
from dense_xp.tables.encoder import Encoder
from dense_xp.tables.errors import TableError, require_polars, require_pyarrow
from dense_xp.tables.rows import check_columns
from dense_xp.tables.texts import marked

if TYPE_CHECKING:
    import polars as pl

SHUFFLE_BUFFER = 2**17
_ROWS = 2**16  # read at a time: some programs write a million rows in one row group


class RowGroups:
    """The row groups of one file, or of all Parquet files in a folder, in the order of their names.

    Parameters
    ----------
    path : str or path
        The file or folder.

    Attributes
    ----------
    files : list of str
        Where the rows are.
    columns : list of str
        The names, which all files must have.
    starts : numpy.ndarray of int
        The number of the first row of each row group; the last entry is the number of all rows.

    Raises
    ------
    TableError
        If these are not Parquet files, differ in their columns, or have no rows.
    FileNotFoundError
        If there are none.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        parquet, arrow = require_pyarrow()
        self.files = _files(os.fspath(path))
        try:
            self._heads = [parquet.read_metadata(file) for file in self.files]
        except (arrow.ArrowException, OSError) as error:
            raise TableError(f"{path} cannot be read as parquet: {str(error).splitlines()[0]}") from error
        self.schema = self._heads[0].schema.to_arrow_schema()
        self.columns: list[str] = list(self.schema.names)
        for file, head in zip(self.files, self._heads, strict=True):
            if head.schema.to_arrow_schema().names != self.columns:
                raise TableError(f"{file} has not the columns of {self.files[0]}: put them into folders of their own")
        self._groups = [(i, group) for i, head in enumerate(self._heads) for group in range(head.num_row_groups)]
        sizes = [self._heads[i].row_group(group).num_rows for i, group in self._groups]
        self.starts = np.cumsum([0, *sizes])
        if not self.starts[-1]:
            raise TableError(f"{path} has no rows")

    def read(self, groups: Sequence[int] | Host, columns: Sequence[str]) -> Iterator[tuple[int, Any]]:
        """Yield record batches of pyarrow from row groups in this order, each after the number of its first row."""
        parquet, _ = require_pyarrow()
        for number in groups:
            i, group = self._groups[number]
            row = int(self.starts[number])
            with parquet.ParquetFile(self.files[i], metadata=self._heads[i]) as file:
                for batch in file.iter_batches(_ROWS, row_groups=[group], columns=list(columns)):
                    yield row, batch
                    row += batch.num_rows


class ParquetRows:
    """Rows of Parquet files for ``fit``, ``evaluate`` and ``predict``: read by row groups, never all at once.

    To shuffle, each epoch draws a new order of the row groups, and mixes the rows of as many groups as fill the buffer.
    Rows that lie far apart in the file meet in a batch only if their groups share a buffer: a file that is sorted by
    its target needs a buffer of several groups.

    Parameters
    ----------
    path : str or path
        A file, or a folder of which all files that end in ``.parquet`` are read, in the order of their names.
    target : str, optional
        The column of targets; without it the rows serve for ``predict`` alone.
    features : sequence of str, optional
        The columns of the inputs, in this order; by default all others.
    weight : str, optional
        The column of weights.
    shuffle_buffer : int, default 131072
        How many rows are in memory at least when they are shuffled.
    dtype : {"float32", "float64"}, default "float32"
        Of the inputs.

    Raises
    ------
    TableError
        If a column is not there or holds no numbers, or the files cannot be read.
    ImportError
        If pyarrow is not installed.

    Examples
    --------
    >>> import os, tempfile
    >>> import polars as pl
    >>> from dense_xp import Dense, Sequential
    >>> path = os.path.join(tempfile.mkdtemp(), "line.parquet")
    >>> pl.DataFrame({"a": [0.0, 1.0, 2.0], "y": [1.0, 3.0, 5.0]}).write_parquet(path)
    >>> rows = ParquetRows(path, target="y")
    >>> model = Sequential([Dense(1)], rng=0)
    >>> history = model.fit(rows, epochs=3, batch_size=2, verbose=False)
    >>> history.samples, model.predict(rows).shape
    (9, (3, 1))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        target: str | None = None,
        *,
        features: Sequence[str] | None = None,
        weight: str | None = None,
        shuffle_buffer: int = SHUFFLE_BUFFER,
        dtype: str = "float32",
    ) -> None:
        self.groups, self.shuffle_buffer = RowGroups(path), integer("shuffle_buffer", shuffle_buffer)
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be 'float32' or 'float64', and is {dtype!r}")
        self.target, self.weight, self.dtype = target, weight, dtype
        others = [name for name in (target, weight) if name is not None]
        self.features = list(features or (name for name in self.groups.columns if name not in others))
        check_columns(self.groups, [*self.features, *others])
        for name in [*self.features, *others]:
            kind = self.groups.schema.field(name).type
            types = require_pyarrow()[1].types
            if not any(
                check(kind) for check in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
            ):
                raise TableError(
                    f"{name} holds values of the type {kind}, and a network needs numbers: leave it out by "
                    "features=[...]; the command  dense-xp train  makes numbers of texts"
                )
        self.n_pieces, self.n_rows = len(self.groups.starts) - 1, int(self.groups.starts[-1])

    def __repr__(self) -> str:
        return f"ParquetRows({self.n_rows} rows, {len(self.features)} features, target={self.target!r})"

    def __len__(self) -> int:
        """Return how many rows there are."""
        return self.n_rows

    def read_pieces(self, pieces: Sequence[int] | Host) -> Iterator[tuple[Host, Host | None, Host | None]]:
        """Yield inputs, targets and weights of row groups, in this order, at most 65,536 rows at a time.

        Parameters
        ----------
        pieces : sequence of int
            The numbers of the row groups.

        Yields
        ------
        X, y, weight : numpy.ndarray
            ``y`` and ``weight`` are None where there is no such column.
        """
        own = [name for name in (self.target, self.weight) if name is not None]
        for row, batch in self.groups.read(pieces, list(dict.fromkeys([*self.features, *own]))):
            y, weight = (
                None if name is None else _numbers(name, batch.column(name), row) for name in (self.target, self.weight)
            )
            yield self._inputs(batch, row).T, y, weight

    def _inputs(self, batch: Any, row: int) -> Host:
        """Return the features of a record batch, one after the other."""
        _, arrow = require_pyarrow()
        columns = [batch.column(name) for name in self.features]
        alike = not any(column.null_count for column in columns) and {column.type for column in columns} == {
            arrow.from_numpy_dtype(self.dtype)
        }
        if alike:  # in one call: for each one the other thread would have to let go of Python's lock
            together: Host = arrow.concat_arrays(columns).to_numpy()
            return together.reshape(len(columns), -1)
        X = np.empty((len(columns), batch.num_rows), dtype=self.dtype)
        for values, name, column in zip(X, self.features, columns, strict=True):
            values[...] = _numbers(name, column, row)
        return X


class ParquetTable:
    """The columns of Parquet files, each read on access, with those methods of a data frame that an encoder needs.

    Parameters
    ----------
    path : str or path
        A file or a folder.
    missing : sequence of str
        Marks of a missing value.

    Attributes
    ----------
    columns : list of str
        Their names.
    rows : numpy.ndarray of bool or None
        Which rows count; None is all.
    """

    def __init__(self, path: str | os.PathLike[str], missing: Sequence[str] = ()) -> None:
        self.groups, self.missing = RowGroups(path), tuple(missing)
        self.columns = self.groups.columns
        self.rows: Host | None = None

    @property
    def height(self) -> int:
        """How many rows there are."""
        return int(self.groups.starts[-1] if self.rows is None else np.count_nonzero(self.rows))

    @property
    def width(self) -> int:
        """How many columns there are."""
        return len(self.columns)

    def __getitem__(self, name: str) -> pl.Series:
        """Return one column."""
        pl = require_polars()
        parts = [pl.read_parquet(file, columns=[name], glob=False) for file in self.groups.files]
        column = marked(pl.concat(parts, how="vertical_relaxed"), self.missing)[name]
        return column if self.rows is None else column.filter(pl.Series(self.rows))

    def __iter__(self) -> Iterator[pl.Series]:
        return (self[name] for name in self.columns)

    def only(self, rows: Host) -> ParquetTable:
        """Return the table with some of its rows, given by their numbers."""
        chosen = np.zeros(self.height, dtype=bool)
        chosen[rows] = True
        return self._with(chosen)

    def filter(self, rows: pl.Series) -> ParquetTable:
        """Return the table with the rows for which this is true."""
        return self._with(rows.to_numpy())

    def _with(self, chosen: Host) -> ParquetTable:
        other = object.__new__(ParquetTable)
        other.groups, other.missing, other.columns = self.groups, self.missing, self.columns
        other.rows = chosen
        if self.rows is not None:
            other.rows = self.rows.copy()
            other.rows[self.rows] = chosen
        return other


class EncodedRows:
    """Rows of a large table, encoded when they are read.

    Parameters
    ----------
    table : ParquetTable
        The rows.
    encoder : Encoder
        What was learned from the columns.
    shuffle_buffer : int, default 131072
        How many rows are in memory at least when they are shuffled.
    """

    def __init__(self, table: ParquetTable, encoder: Encoder, shuffle_buffer: int = SHUFFLE_BUFFER) -> None:
        self.table, self.encoder, self.shuffle_buffer = table, encoder, shuffle_buffer
        self.n_pieces, self.n_rows = len(table.groups.starts) - 1, table.height

    def read_pieces(self, pieces: Sequence[int] | Host) -> Iterator[tuple[Host, Host, None]]:
        """Yield inputs and targets of row groups, in this order."""
        pl = require_polars()
        names = [*(column.name for column in self.encoder.columns), self.encoder.target.name]
        for row, batch in self.table.groups.read(pieces, names):
            frame = marked(pl.from_arrow(batch), self.table.missing)
            if self.table.rows is not None:
                frame = frame.filter(pl.Series(self.table.rows[row : row + batch.num_rows]))
            if frame.height:
                yield self.encoder.encode(frame), self.encoder.encode_target(frame), None


def _files(path: str) -> list[str]:
    if os.path.isdir(path):
        found = sorted(
            os.path.join(folder, name)
            for folder, _, names in os.walk(path)
            for name in names
            if name.lower().endswith(".parquet")
        )
        if not found:
            raise FileNotFoundError(f"there are no files that end in .parquet in the folder {path!r}")
        return found
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no file or folder {path!r}")
    return [path]


def _numbers(name: str, column: Any, row: int) -> Host:
    if column.null_count:
        first = row + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise TableError(
            f"{name} has no value in row {first + 1}: fill it in or take the row out; the command  dense-xp train  "
            "fills gaps by itself"
        )
    numbers: Host = column.to_numpy(zero_copy_only=False)
    return numbers.astype("float64") if numbers.dtype == object else numbers
