"""Tables on disk: CSV, Parquet and NPZ, read into polars and written from it."""

from __future__ import annotations

import dataclasses
import gzip
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dense_xp.support.files import replacing
from dense_xp.support.texts import nearest
from dense_xp.tables import delimited
from dense_xp.tables.errors import TableError, require_polars
from dense_xp.tables.texts import marked

if TYPE_CHECKING:
    import polars as pl

_CSV = (".csv", ".tsv", ".txt")
_SPARE, _TIMES = 2**24, 20  # a file may unpack to so many bytes, plus so many for each of its own
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, NotImplementedError, RuntimeError)
"""What Python's readers raise for a truncated, corrupt or encrypted file, or an unknown compression."""


def check_format(path: str, *, output: bool = False) -> str:
    """Return what kind of file a path names: ``"csv"``, ``"parquet"`` or ``"npz"``.

    Raises
    ------
    TableError
        If its ending is unknown.
    """
    stem = path.lower() if output else path.lower().removesuffix(".gz")
    ending = os.path.splitext(stem)[1]
    if ending in _CSV:
        return "csv"
    if ending in (".parquet", ".npz"):
        return ending[1:]
    raise TableError(f"{path}: the ending must be {', '.join(_CSV)}, .parquet or .npz")


@dataclass(frozen=True)
class Table:
    """A table as it was read.

    Attributes
    ----------
    frame : polars.DataFrame
        Its values.
    written : polars.DataFrame
        The columns that were to be kept, as they stand in the file: of a CSV file, the texts.
    decimals : dict of str to str
        Decimal commas and ambiguous decimal signs of a CSV file; ``read_table(..., decimals=...)`` takes them.
    readings : dict of str to str
        How ambiguous columns are read, in words.
    notes : list of str
        Other remarks for the user.
    """

    frame: pl.DataFrame
    written: pl.DataFrame
    decimals: Mapping[str, str] = dataclasses.field(default_factory=dict)
    readings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()

    def repeated(self, names: Sequence[str]) -> pl.DataFrame:
        """Return columns as they stand in the file: as values if these are written the same, else as texts."""
        pl = require_polars()
        pairs = [(self.frame[name], self.written[name]) for name in names]
        return self.frame.select(
            value if value.dtype.is_nested() or value.cast(pl.String).equals(text.cast(pl.String)) else text
            for value, text in pairs
        )


def read(path: str, *, texts: Sequence[str] = (), missing: Sequence[str] = (), **how: Any) -> pl.DataFrame:
    """Return the values of a table; see :func:`~dense_xp.tables.files.read_table`."""
    return read_table(path, texts=texts, missing=missing, **how).frame


def read_table(
    path: str,
    *,
    texts: Sequence[str] = (),
    missing: Sequence[str] = (),
    values: Sequence[str] = (),
    decimals: Mapping[str, str] | str = "",
    keep: Sequence[str] = (),
    encoding: str = "utf-8",
    unlimited: bool = False,
) -> Table:
    """Read a table.

    Parameters
    ----------
    path : str
        A CSV file (``.csv``, ``.tsv``, ``.txt``, each also with ``.gz``), a Parquet file, or an NPZ file with the
        arrays ``X`` of shape (n_rows, n_columns) and, if there is a target, ``y`` of shape (n_rows,). The columns
        of an NPZ file are named x0, x1, …, and y.
    texts : sequence of str
        Columns of a CSV file whose values stay texts, though they may look like numbers.
    missing : sequence of str
        Marks of a missing value, besides the usual ones of a CSV file; one that is a number stands for that number.
    values : sequence of str
        Which of the usual marks are values here: ``"NA"``.
    decimals : str or mapping of str to str, optional
        The decimal sign, ``"."`` or ``","``, of all columns or of some. It counts where a column leaves it open, as
        ``1,234`` does; by default the other columns tell.
    keep : sequence of str
        Columns that are also returned as they stand in the file, if they exist.
    encoding : str, default "utf-8"
        That of a CSV file.
    unlimited : bool, default False
        Whether to read a file that takes far more memory than its size suggests.

    Returns
    -------
    Table
        With at least one row; rows of a CSV file with nothing in them are left out.

    Raises
    ------
    TableError
        If the file cannot be read, or has no rows.
    FileNotFoundError
        If there is none; the message has the nearest name in its folder.
    """
    kind = check_format(path)
    pl = require_polars()
    _check_there(path)
    limit = sys.maxsize if unlimited else _SPARE + _TIMES * os.path.getsize(path)
    try:
        if kind == "csv":
            data = delimited.in_utf8(path, _unpacked(path, limit), encoding)
            cells, separator, notes = delimited.cells(path, data)
            written = cells.select(name for name in cells.columns if name in keep)
            cells = marked(cells, delimited.marks(missing, values))
            frame, signs, readings = delimited.settled(
                cells, separator, texts=texts, missing=missing, decimals=decimals
            )
            blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series()
            if blank.any():
                frame, written = frame.filter(~blank), written.filter(~blank) if written.width else written
            table = Table(frame, written, signs, readings, notes)
        else:
            if kind == "parquet" and not unlimited:
                _check_parquet(path)
            frame = (_read_parquet if kind == "parquet" else _read_npz)(path, limit)
            table = Table(marked(frame, missing), frame.select(name for name in frame.columns if name in keep))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, *_DAMAGED) as error:
        raise TableError(f"{path} cannot be read as {kind}: {_first_line(error)}") from error
    if not table.frame.height:
        raise TableError(f"{path} has no rows" + (" below its first line" if kind == "csv" else ""))
    return table


def write(frame: pl.DataFrame, path: str) -> None:
    """Write a table; in an NPZ file each column is an array under its name.

    Parameters
    ----------
    frame : polars.DataFrame
        The table.
    path : str
        Ends in ``.csv``, ``.tsv``, ``.txt``, ``.parquet`` or ``.npz``.
    """
    kind = check_format(path, output=True)
    with replacing(path) as file:
        if kind == "csv":
            frame.write_csv(file, separator="\t" if path.lower().endswith(".tsv") else ",")
        elif kind == "parquet":
            frame.write_parquet(file)
        else:
            columns = {name: frame[name].to_numpy() for name in frame.columns}
            _savez(file, {name: _plain(array) if array.dtype == object else array for name, array in columns.items()})


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return texts without pickles; a missing one is empty."""
    return np.asarray(["" if value is None else str(value) for value in array], dtype="U")


def _savez(file: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    # numpy.savez takes names as keywords: one of them may not be "file"
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _check_there(path: str) -> None:
    if os.path.isfile(path):
        return
    if os.path.isdir(path):
        raise TableError(f"{path} is a folder, and not a file")
    folder, name = os.path.split(path)
    near = nearest(name, os.listdir(folder or ".") if os.path.isdir(folder or ".") else (), 0.85)
    hint = f"; did you mean {os.path.join(folder, near)!r}?" if near else ""
    raise FileNotFoundError(f"there is no file {path!r}{hint}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


# ------------------------------------------------------------------------------------- Parquet and NPZ


def _check_size(path: str, size: int, limit: int) -> None:
    if size > limit:
        raise TableError(
            f"{path} holds more than {limit:,} bytes when it is unpacked, far more than others of its size: if it is "
            "what it should be, say --unlimited"
        )


def _unpacked(path: str, limit: int) -> bytes:
    with open(path, "rb") as file:
        zipped = path.lower().endswith(".gz") or file.peek(2).startswith(_GZIP)
        data: bytes = (gzip.GzipFile(fileobj=file) if zipped else file).read(limit + 1 if limit < sys.maxsize else -1)
    _check_size(path, len(data), limit)
    if data.startswith(_COMPRESSED):  # polars would unpack it, however much it is then
        raise TableError(f"{path} is compressed in a way that is not read here: unpack it first")
    return data


_GZIP = b"\x1f\x8b"
_COMPRESSED = (_GZIP, b"\x28\xb5\x2f\xfd", b"x\x01", b"x\x9c", b"x\xda")  # gzip once more, zstd, zlib


_READS = """import sys, polars
try:
    polars.scan_parquet(sys.argv[1], glob=False).collect()
    print("read")
except BaseException as error:
    print("refused")
"""


def _check_parquet(path: str) -> None:
    """Refuse a file with which polars would end the process: it is read in another process first.

    With a few damaged files, polars asks for more memory than there is, or fails in a thread of its own; neither raises
    an exception.
    """
    with open(path, "rb") as file:
        begins = file.read(4)
        file.seek(max(0, os.path.getsize(path) - 4))
        whole = begins == file.read(4) == b"PAR1"
    if not whole:
        raise TableError(f"{path} cannot be read as parquet: it does not begin and end as such a file does")
    if not sys.executable:  # Python within another program
        return
    done = subprocess.run([sys.executable, "-P", "-c", _READS, path], capture_output=True, check=False)
    if not done.stdout and done.returncode != 1:  # 1: that process could not import polars
        raise TableError(f"{path} cannot be read as parquet: it is damaged so that polars ends the process")


def _read_parquet(path: str, limit: int) -> pl.DataFrame:
    polars = require_polars()
    lazy = polars.scan_parquet(path, glob=False)
    _check_size(path, int(lazy.select(polars.len()).collect().item()) * len(lazy.collect_schema()), limit)
    frame: pl.DataFrame = lazy.collect()
    return frame


def _read_npz(path: str, limit: int) -> pl.DataFrame:
    pl = require_polars()
    try:
        with zipfile.ZipFile(path) as members:
            _check_size(path, sum(member.file_size for member in members.infolist()), limit)
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("X", "y") if name in archive.files}
            others = sorted(archive.files)
    except TableError:
        raise
    except (ValueError, OSError, TypeError, SyntaxError) as error:
        raise TableError(f"{path} cannot be read as npz: {_first_line(error)}") from error
    X, y = arrays.get("X"), arrays.get("y")
    if X is None or X.ndim != 2:
        found = f"shape {X.shape}" if X is not None else f"the arrays {others}"
        raise TableError(f"{path} needs an array X of shape (n_rows, n_columns), and has {found}")
    if X.dtype.kind not in "fiub":
        raise TableError(f"{path} needs numbers in X, and it holds {X.dtype}")
    if y is not None and y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y is not None and y.shape != X.shape[:1]:
        raise TableError(f"{path} has X of shape {X.shape}: y must have the shape {X.shape[:1]}, and has {y.shape}")
    columns = {f"x{i}": np.ascontiguousarray(X[:, i]) for i in range(X.shape[1])}
    return pl.DataFrame(columns if y is None else {**columns, "y": y})
