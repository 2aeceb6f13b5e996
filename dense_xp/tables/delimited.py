"""CSV files: find out where a record ends, what separates its fields, and what types these have.

A file that keeps to the rules (RFC 4180) is read fast. One that breaks them, as ``5" pipe`` does, is repaired first: a
quote counts only at the start of a field that another quote ends.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from dense_xp.tables.errors import TableError, require_polars
from dense_xp.tables.texts import Numerals, are_dates, marked, numerals, plain_numbers

if TYPE_CHECKING:
    import polars as pl

MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None", "?")
"""What stands for a missing value in a CSV file."""

_NOT_UTF8 = "is not text in UTF-8: say --encoding, such as latin-1 or utf-16, or save it in UTF-8"
_SEPARATORS = (",", ";", "\t", "|")
_BOM = b"\xef\xbb\xbf"
_SAMPLE = 16  # as a power of 2, in bytes


def marks(missing: Sequence[str], values: Sequence[str]) -> list[str]:
    """Return what stands for a missing value in a CSV file: the usual marks without `values`, and others."""
    return [*(mark for mark in MISSING if mark not in values), *missing]


def in_utf8(path: str, data: bytes, encoding: str) -> bytes:
    """Return what a file holds in UTF-8, from another encoding."""
    try:
        if codecs.lookup(encoding).name == "utf-8":
            return data
        return data.decode(encoding).encode()
    except LookupError:
        raise TableError(f"{encoding!r} is no encoding: there are utf-8, latin-1, cp1252, utf-16 and others") from None
    except UnicodeError as error:
        raise TableError(f"{path} is not text in {encoding}: {error}") from None


def cells(path: str, data: bytes) -> tuple[pl.DataFrame, str, list[str]]:
    """Return the fields of a CSV file as texts.

    Parameters
    ----------
    path : str
        For messages.
    data : bytes
        What the file holds.

    Returns
    -------
    frame : polars.DataFrame
        The fields.
    separator : str
        Of the file; a comma, if there is a single column.
    notes : list of str
        Remarks for the user.
    """
    pl = require_polars()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[: 2**_SAMPLE]:
        raise TableError(f"{path} {_NOT_UTF8}")
    said = re.match(rb'(?:\xef\xbb\xbf)?"?sep=([^"\r\n])"?(?:\r?\n|\r)', data)  # as Excel has it
    data = data[said.end() :] if said else data
    end = "\r" if b"\r" in data[: 2**_SAMPLE] and b"\n" not in data[: 2**_SAMPLE] else "\n"
    header, separator, data = _dialect(data, (said[1].decode("latin-1"),) if said else _SEPARATORS, end)
    if not header:
        raise TableError(f"{path} is empty")
    if twice := next((name for name, count in Counter(header).items() if name and count > 1), None):
        raise TableError(f"{path} has two columns that are named {twice!r}: rename one")
    blank = header.index("") if "" in header else 0
    names = [name or (f"unnamed {i}" if i > blank else "") for i, name in enumerate(header)]
    too_many = TableError(
        f"{path} has a row with more than the {len(header)} values that its first line names: is there a "
        "separator in a text that has no quotes around it?"
    )
    opening = rb'(?:\A(?:\xef\xbb\xbf)?|[\r\n%b]) *"' % re.escape(separator).encode()
    quote = '"' if b'"' in data and re.search(opening, data) else None  # the search alone reads 50 MB in a second
    try:
        if quote and not _keeps_to_the_rules(data, separator):
            data = _mended(data.decode("utf-8-sig"), separator, end).encode()
        frame = pl.read_csv(
            io.BytesIO(data), separator=separator, quote_char=quote, eol_char=end, infer_schema_length=0
        )
        frame.columns = names
    except pl.exceptions.NoDataError:
        raise TableError(f"{path} is empty") from None
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        if "utf-8" in str(error):
            raise TableError(
                f"{path} is not text in UTF-8: say --encoding, such as latin-1 or utf-16, or save it in UTF-8"
            ) from None
        if "found more fields" in str(error):
            raise too_many from None
        raise
    notes: list[str] = []
    if len(names) > 1:
        again = pl.all_horizontal(
            pl.col(name).str.strip_chars().eq_missing(said or None) for name, said in zip(names, header, strict=True)
        )
        if count := int(frame.select(again).to_series().sum()):
            notes.append(f"the first line stands in {count:,} other rows too: left out")
            frame = frame.filter(~again)
    return frame, separator if len(names) > 1 else ",", notes


def _dialect(data: bytes, separators: Sequence[str], end: str) -> tuple[list[str], str, bytes]:
    """Return the names in the first record, the separator, and the file with as many names as there are fields.

    The separator is the one with which most records have as many fields as the first, and then the one with most
    fields. R gives the column of row names no name; other programs end each row but the first with a separator.
    """
    for size in itertools.count(_SAMPLE, 2):
        cut = 2**size < len(data)
        sample = data[: 2**size].decode("utf-8-sig", errors="replace")
        split = {s: [*itertools.islice(_records(sample, s, end, cut), 1000)] for s in separators}
        if not cut or all(split.values()):  # with each of them, a whole record has been read
            break

    def rank(separator: str) -> tuple[bool, float, int]:
        widths = [len(row) for row, _ in split[separator]] or [0]
        return widths[0] > 1, widths.count(widths[0]) / len(widths), widths[0]

    best = max(separators, key=rank)  # the first of equal ones
    (first, stop), *rows = split[best] or [([], 0)]
    names = [(field or "").strip() for field in first]
    if {len(row) for row, _ in rows} == {len(names) + 1 if len(names) > 1 else 0}:
        names = ["", *names] if any(row[-1] for row, _ in rows) else [*names, ""]
        line = best.join('"' + name.replace('"', '""') + '"' for name in names) + end
        data = line.encode() + data.removeprefix(_BOM)[len(sample[:stop].encode()) :]
    return names, best, data


def _records(text: str, separator: str, end: str, cut: bool) -> Iterator[tuple[list[str | None], int]]:
    """Yield the records of a text that are not blank, and where each ends; without the last if the text is cut."""
    stop = "\r" if end == "\r" else r"\r?\n"
    s = re.escape(separator)
    field = re.compile(rf' *"([^"]*+(?:""[^"]*+)*+)" *({s}|{stop}|\Z)|([^{s}{end}]*)({s}|{end}|\Z)')
    unclosed = re.compile(r' *"[^"]*+(?:""[^"]*+)*+\Z')
    row: list[str | None] = []
    at = 0
    while found := field.match(text, at):
        quoted, after, plain, closed = found.groups()
        if cut and (found.end() == len(text) or (quoted is None and unclosed.match(text, at))):
            return
        row.append((plain.removesuffix("\r") or None) if quoted is None else quoted.replace('""', '"'))
        at = found.end()
        if (after if quoted is not None else closed) == separator:
            continue
        if row != [None]:
            yield row, at
        row = []
        if at == len(text):
            return


def _keeps_to_the_rules(data: bytes, separator: str) -> bool:
    """Whether each quote opens or closes a field, or stands twice within one."""
    edge = rb"[^\r\n%b]" % re.escape(separator).encode()
    rules = rb'(?:[^"]++|(?<!%b)"[^"]*+(?:""[^"]*+)*+"(?!%b))*+\Z' % (edge, edge)
    return re.match(rules, data.removeprefix(_BOM)) is not None


def _mended(text: str, separator: str, end: str) -> str:
    """Return a text with quotes around each field that has quotes in it, and those doubled."""
    s = re.escape(separator)
    stop = "\r" if end == "\r" else r"\r?\n"
    field = rf'(?<![^{s}{end}])(?: *"([^"]*+(?:""[^"]*+)*+)" *(?={s}|{stop}|\Z)|([^{s}{end}"]*"[^{s}{end}]*))'

    def quoted(found: re.Match[str]) -> str:
        inner, plain = found.groups()
        return '"' + (inner if plain is None else plain.removesuffix("\r").replace('"', '""')) + '"'

    return re.sub(field, quoted, text)


# ------------------------------------------------------------------------------------- values


def settled(
    frame: pl.DataFrame,
    separator: str,
    *,
    texts: Sequence[str],
    missing: Sequence[str],
    decimals: Mapping[str, str] | str,
) -> tuple[pl.DataFrame, dict[str, str], dict[str, str]]:
    """Return columns of texts with the types of their values: numbers, booleans, dates, or texts.

    Parameters
    ----------
    frame : polars.DataFrame
        Texts, without the marks of missing values.
    separator : str
        Of the file.
    texts : sequence of str
        Columns that stay what they are.
    missing : sequence of str
        Marks of missing values; those that are numbers match any spelling in columns of numbers.
    decimals : str or mapping of str to str
        The decimal sign of all columns, or of some, where their values leave it open.

    Returns
    -------
    frame : polars.DataFrame
        The values.
    decimals : dict of str to str
        The sign of columns with a decimal comma, and of those that leave it open.
    readings : dict of str to str
        How ambiguous columns are read.
    """
    pl = require_polars()
    columns = {column.name: column for column in frame}
    numbers: dict[str, Numerals] = {}
    known = set()
    for part in _blocks([name for name in columns if name not in texts], frame.height):
        plain = plain_numbers(frame.select(part))
        columns |= plain
        known |= {"."} if any(column.dtype.is_float() for column in plain.values()) else set()
        for name in part:
            if name not in plain and columns[name].null_count() < frame.height:
                if found := numerals(columns[name]):
                    numbers[name] = found
                else:
                    columns[name] = _otherwise(columns[name])
    known |= {found.decimal for found in numbers.values() if found.decimal}
    signs: dict[str, str] = {}
    readings: dict[str, str] = {}
    for name, found in numbers.items():
        said = decimals if isinstance(decimals, str) else decimals.get(name)
        sign = said or (min(known) if len(known) == 1 else _usual(found, separator))
        if (read := found.values(sign)) is None:
            continue
        if found.is_open or found.decimal == ",":
            signs[name] = found.decimal or sign
        if found.is_open or found.unit:
            at = found.digits.str.contains("[.,]" if found.is_open else "").arg_max()
            other = f" (--decimal {'.' if sign == ',' else ','} if it is not)" if found.is_open and not said else ""
            readings[name] = f"{name}: {columns[name][at]!r} is read as {read[at]:.15g}{other}"
        columns[name] = read
    return marked(pl.DataFrame(columns), missing), signs, readings


def _blocks(names: Sequence[str], height: int) -> Iterator[Sequence[str]]:
    """Divide columns into groups that fit in memory: one call for many columns is much faster."""
    size = max(1, 2**20 // max(1, height))
    return (names[at : at + size] for at in range(0, len(names), size))


def _usual(found: Numerals, separator: str) -> str:
    """Return the decimal sign of a column that leaves it open, if no other column of the file has one."""
    return "," if separator == ";" and not found.digits.str.contains(".", literal=True).any() else "."


def _otherwise(texts: pl.Series) -> pl.Series:
    """Return texts that are not numbers as booleans, as dates, or as they are."""
    pl = require_polars()
    first = texts.drop_nulls()[0]  # it decides for most columns; only then all values are checked
    if first.lower() in ("true", "false"):
        lower = texts.str.to_lowercase()
        if lower.drop_nulls().is_in(["true", "false"]).all():
            return lower == "true"
    if are_dates(texts):
        for parse in (texts.str.to_date, texts.str.to_datetime, texts.str.to_time):
            with contextlib.suppress(pl.exceptions.PolarsError):
                dates = parse(strict=False)
                if dates.null_count() == texts.null_count():
                    return dates
    return texts
