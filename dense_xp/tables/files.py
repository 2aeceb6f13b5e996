"""Tables on disk: CSV, Parquet and NPZ, read into polars and written from it.

A CSV file says little about itself. Its separator is read off its first lines; what a column holds, off all of its
values, without the spaces around them; and the usual marks of a missing value become one.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import gzip
import io
import os
import re
import zipfile
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dense_xp.support.files import replacing

if TYPE_CHECKING:
    import polars as pl

MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None", "?")
"""What stands for a missing value in a CSV file."""

_CSV = (".csv", ".tsv", ".txt")
_SEPARATORS = (",", ";", "\t", "|")
_DATE = r"\d{1,4}[-/.:]\d{1,2}[-/.:]\d"
_SAMPLE = 2**16


_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, NotImplementedError, RuntimeError)
"""What the readers of Python raise for a file that is cut off, flipped, encrypted or compressed in another way."""


class TableError(ValueError):
    """A table cannot be read, or does not fit; the message says why and what to do."""


def require_polars() -> Any:
    """Import polars, or raise ImportError with the command that installs it."""
    try:
        import polars
    except ModuleNotFoundError:
        raise ImportError('tables are read with polars: run  pip install "dense-xp[cli]"') from None
    return polars


def check_format(path: str, *, output: bool = False) -> str:
    """Return what kind of file a path names: ``"csv"``, ``"parquet"`` or ``"npz"``.

    Raises
    ------
    TableError
        If its ending is none of theirs.
    """
    stem = path.lower() if output else path.lower().removesuffix(".gz")
    ending = os.path.splitext(stem)[1]
    if ending in _CSV:
        return "csv"
    if ending in (".parquet", ".npz"):
        return ending[1:]
    raise TableError(f"{path}: the ending must be {', '.join(_CSV)}, .parquet or .npz")


def read(path: str, *, texts: Sequence[str] = (), missing: Sequence[str] = ()) -> pl.DataFrame:
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
        Marks of a missing value in a CSV file, beside the usual ones.

    Returns
    -------
    polars.DataFrame
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
    try:
        frame = {"csv": _read_csv, "parquet": _read_parquet, "npz": _read_npz}[kind](path, texts, missing)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, *_DAMAGED) as error:
        raise TableError(f"{path} cannot be read as {kind}: {_first_line(error)}") from error
    if not frame.height:
        raise TableError(f"{path} has no rows" + (" below its first line" if kind == "csv" else ""))
    return frame


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
    there = {other.lower(): other for other in (os.listdir(folder or ".") if os.path.isdir(folder or ".") else ())}
    near = difflib.get_close_matches(name.lower(), there, 1, 0.85)
    hint = f"; did you mean {os.path.join(folder, there[near[0]])!r}?" if near else ""
    raise FileNotFoundError(f"there is no file {path!r}{hint}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


# ------------------------------------------------------------------------------------- CSV


def _read_csv(path: str, texts: Sequence[str], missing: Sequence[str]) -> pl.DataFrame:
    pl = require_polars()
    with gzip.open(path) if path.lower().endswith(".gz") else open(path, "rb") as file:
        head = file.read(_SAMPLE)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
        raise TableError(f"{path} is not text in UTF-8: save it as CSV in UTF-8")
    header, separator = _dialect(head.decode("utf-8-sig", errors="replace"))
    if twice := next((name for i, name in enumerate(header) if name and name in header[:i]), None):
        raise TableError(f"{path} has two columns that are named {twice!r}: rename one")
    try:
        frame = pl.read_csv(path, separator=separator, infer_schema_length=0)  # all texts
    except pl.exceptions.NoDataError:
        raise TableError(f"{path} is empty") from None
    except pl.exceptions.PolarsError as error:
        if "utf-8" in str(error):
            raise TableError(f"{path} is not text in UTF-8: save it as CSV in UTF-8") from None
        if "found more fields" in str(error):
            raise TableError(
                f"{path} has a row with more than the {len(header)} values that its first line names: is there a "
                "separator in a text that has no quotes around it?"
            ) from None
        raise
    if not frame.height:
        return frame
    frame = frame.rename({name: name.strip() for name in frame.columns})
    marks = [*MISSING, *missing]
    frame = frame.with_columns([_settled(column, marks, column.name in texts, separator) for column in frame])
    return frame.filter(~pl.all_horizontal(pl.all().is_null()))


def _dialect(text: str) -> tuple[list[str], str]:
    """Return the names in the first line, and the separator: the one that splits all lines alike, and most."""
    lines = io.StringIO(text, newline="").readlines()[:1000]
    lines = lines[:-1] or lines  # the last one may be cut off
    best, names = ",", next(csv.reader(lines), [])
    for separator in _SEPARATORS:
        rows = [row for row in csv.reader(lines, delimiter=separator) if row]
        if len({len(row) for row in rows}) == 1 and len(rows[0]) > len(names):
            best, names = separator, rows[0]
    return [name.strip() for name in names], best


def _settled(column: pl.Series, marks: Sequence[str], is_text: bool, separator: str) -> pl.Series:
    """Return a column of texts as what all of them are: whole numbers, numbers, yes and no, dates, or texts."""
    pl = require_polars()
    texts = column.str.strip_chars()
    texts = texts.set(texts.is_in(marks), None)
    absent = texts.null_count()
    if is_text or absent == len(texts):
        return texts
    first = texts.drop_nulls()[0]  # most columns are told by it; then all values are looked at
    if re.match(r"[+-]?([.,]?\d|inf)", first, re.IGNORECASE):
        points = texts if separator == "," else texts.str.replace(",", ".", literal=True)
        numbers = points.cast(pl.Float64, strict=False)
        # codes with zeros in front, such as those of places, are no numbers
        if numbers.null_count() == absent and not texts.str.contains(r"^[+-]?0\d").any():
            whole = texts.cast(pl.Int64, strict=False)
            return whole if whole.null_count() == absent else numbers
    if first.lower() in ("true", "false"):
        lower = texts.str.to_lowercase()
        if lower.drop_nulls().is_in(["true", "false"]).all():
            return lower == "true"
    if re.match(_DATE, first):
        for parse in (texts.str.to_date, texts.str.to_datetime, texts.str.to_time):
            with contextlib.suppress(pl.exceptions.PolarsError):
                dates = parse(strict=False)
                if dates.null_count() == absent:
                    return dates
    return texts


# ------------------------------------------------------------------------------------- Parquet and NPZ


def _read_parquet(path: str, texts: Sequence[str], missing: Sequence[str]) -> pl.DataFrame:
    frame: pl.DataFrame = require_polars().read_parquet(path)
    return frame


def _read_npz(path: str, texts: Sequence[str], missing: Sequence[str]) -> pl.DataFrame:
    pl = require_polars()
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError) as error:
        raise TableError(f"{path} cannot be read as npz: {_first_line(error)}") from error
    X, y = arrays.get("X"), arrays.get("y")
    if X is None or X.ndim != 2:
        found = f"shape {X.shape}" if X is not None else f"the arrays {sorted(arrays)}"
        raise TableError(f"{path} needs an array X of shape (n_rows, n_columns), and has {found}")
    if X.dtype.kind not in "fiub":
        raise TableError(f"{path} needs numbers in X, and it holds {X.dtype}")
    if y is not None and y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y is not None and y.shape != X.shape[:1]:
        raise TableError(f"{path} has X of shape {X.shape}: y must have the shape {X.shape[:1]}, and has {y.shape}")
    columns = {f"x{i}": np.ascontiguousarray(X[:, i]) for i in range(X.shape[1])}
    return pl.DataFrame(columns if y is None else {**columns, "y": y})
