"""What the texts of a file mean: numbers in any notation, dates, booleans.

Whether ``1,234`` is above a thousand or below two depends on the other values of its column: ``1,5`` has a decimal
comma, and ``1,234.5`` a decimal point. Where all have one sign before three digits, the column leaves it open.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

from dense_xp.tables.errors import require_polars

if TYPE_CHECKING:
    import polars as pl

Texts = TypeVar("Texts", "pl.Series", "pl.Expr")

_UNIT = r"(?:[$€£¥₹%‰]|USD|EUR|GBP|CHF|JPY)"
_SPACES = r"['’ \u00a0\u202f]"


def _pattern(point: str, comma: str) -> str:
    """Return what matches numbers with a decimal sign, and perhaps another sign between thousands."""
    thousands = rf"[1-9][0-9]{{0,2}}(?:(?:[{comma}]|{_SPACES})[0-9]{{2,3}})*(?:[{comma}]|{_SPACES})[0-9]{{3}}"
    plain = rf"(?:[0-9]+[{point}]?[0-9]*|[{point}][0-9]+)(?:[eE][+-]?[0-9]+)?"
    return rf"[+-]?(?:{thousands}(?:[{point}][0-9]*)?|{plain}|[iI][nN][fF](?:inity)?)"


_POINT, _COMMA = _pattern(".", ","), _pattern(",", ".")
_PLAIN = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
ZERO_DECIMALS = r"^([+-]?[0-9]+)\.0*$"
"""A whole number with zero decimals, or with a point alone."""

_ZEROS = r"^[+-]?0[0-9]"  # leading zeros, as in codes
_OPEN = r"[+-]?[1-9][0-9]{0,2}\.[0-9]{3}"
_NUMERAL = rf"^\(?[+-]? *{_UNIT}? *(?:{_POINT}|{_COMMA}) *{_UNIT}?\)?$"

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DAY = (
    r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}|\d{1,2}[-/]\d{1,2}[-/]\d{2}"
    rf"|{_MONTH}\s*\d{{1,2}}(?:st|nd|rd|th)?,?\s*\d{{2,4}}|\d{{1,2}}(?:st|nd|rd|th|\.)?[-\s]*{_MONTH}[-,\s]*\d{{2,4}})"
)
_TIME = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?\s*(?:[ap]\.?m\.?)?"
_DATE = rf"(?i)^(?:[a-z]{{3,9}},?\s+)?(?:{_DAY}(?:(?:t|,?\s+){_TIME})?|{_TIME})\s*(?:z|utc|gmt|[+-]\d{{2}}:?\d{{2}})?$"


@dataclass(frozen=True)
class Numerals:
    """A column of texts that are all numbers.

    Attributes
    ----------
    digits : polars.Series
        The texts without units, and with a minus for accountants' parentheses.
    decimal : str
        The decimal sign; empty if the texts leave it open.
    unit : str
        What stands before or behind each number: ``"$"``, ``"%"``.
    """

    digits: pl.Series
    decimal: str
    unit: str = ""

    @property
    def is_open(self) -> bool:
        """Whether there are points or commas that may separate decimals or thousands."""
        return not self.decimal and bool(self.digits.str.contains("[.,]").any())

    def values(self, decimal: str = ".") -> pl.Series | None:
        """Return the numbers, whole ones as integers; `decimal` decides where the texts do not.

        None if a text is too long to be read as a number.
        """
        polars = require_polars()
        point, comma = (".", ",") if (self.decimal or decimal) == "." else (",", ".")
        plain = self.digits.str.replace_all(rf"[{comma}]|{_SPACES}", "").str.replace(point, ".", literal=True)
        for kind in (polars.Int64, polars.Float64):
            numbers: pl.Series = plain.cast(kind, strict=False)
            if numbers.null_count() == plain.null_count():
                return numbers
        return None


def numerals(texts: pl.Series) -> Numerals | None:
    """Return texts as numbers if all of them are, in the same unit; codes with leading zeros are not."""
    digits = texts.str.replace("−", "-", literal=True)
    known = digits.drop_nulls()
    if not len(known) or not re.match(_NUMERAL, known[0]):
        return None  # the first value rules out most columns
    if digits.str.starts_with("(").any():  # accountants write negative numbers so
        digits = digits.str.replace(r"^\((.*)\)$", "-$1")
    unit = found[0] if (found := re.search(_UNIT, known[0])) else ""
    if unit:
        if not known.str.contains(unit, literal=True).all():
            return None
        sign = re.escape(unit)
        digits = digits.str.replace(rf"^([+-]?)\s*{sign}\s*|\s*{sign}$", "$1")
    if digits.str.contains(_ZEROS).any():
        return None
    point, comma = (bool(digits.str.contains(f"^(?:{pattern})$").all()) for pattern in (_POINT, _COMMA))
    if not point and not comma:
        return None
    return Numerals(digits, "" if point and comma else "." if point else ",", unit)


def plain_numbers(frame: pl.DataFrame) -> dict[str, pl.Series]:
    """Return the columns of texts that hold only numbers in Python's notation: 12, or 0.5.

    Columns where ``1.234`` may be above a thousand, or with leading zeros, are left to :func:`numerals`.
    """
    polars = require_polars()
    coded = frame.select(polars.all().str.contains(_ZEROS).any()).row(0)
    absent = frame.null_count().row(0)
    found: dict[str, pl.Series] = {}
    for kind in (polars.Int64, polars.Float64):
        rest = [name for i, name in enumerate(frame.columns) if name not in found and not coded[i]]
        read = frame.select(polars.col(rest).cast(kind, strict=False))
        lost = dict(zip(rest, read.null_count().row(0), strict=True))
        for name, before in zip(frame.columns, absent, strict=True):
            if lost.get(name) == before < frame.height:
                first = frame[name][int(frame[name].is_not_null().arg_max() or 0)]
                if not re.fullmatch(_OPEN, first):
                    found[name] = read[name]
    return found


def nearly_numbers(texts: pl.Series) -> str:
    """Return a hint if all but a few texts are numbers: then one value spoils a whole column."""
    numbers = texts.str.contains(_NUMERAL) & ~texts.str.contains(_ZEROS)
    others = int((~numbers).sum())
    if others > 0.1 * len(texts):
        return ""
    if not others:
        return ", though all look like numbers: write them alike, without signs before and behind"
    first = texts.filter(~numbers)[0]
    return f", though nearly all are numbers: if {first!r} stands for a missing value, say --missing {first!r}"


def are_dates(texts: pl.Series) -> bool:
    """Whether nearly all texts are days, times, or both, in one of the usual ways to write them."""
    known = texts.drop_nulls()
    if not any(re.match(_DATE, text) for text in known.head(10)):
        return False
    return bool(known.str.contains(_DATE).sum() >= 0.9 * len(known))


def without_zero_decimals(texts: Texts) -> Texts:
    """Return texts with 8001.0 as 8001: some files write the former in columns with missing values."""
    return cast("Texts", texts.str.replace(ZERO_DECIMALS, "$1"))


def mark_numbers(marks: Sequence[str]) -> set[float]:
    """Return the numbers among marks of missing values.

    Examples
    --------
    >>> mark_numbers(["-", "-999"])
    {-999.0}
    """
    return {float(mark) for mark in marks if re.fullmatch(_PLAIN, mark)}


def marked(frame: pl.DataFrame, marks: Sequence[str]) -> pl.DataFrame:
    """Return a table with null in place of marks: as texts, or as numbers in any spelling."""
    polars = require_polars()
    if not marks:
        return frame
    numbers = mark_numbers(marks)
    plain = [str(int(number)) for number in numbers if number.is_integer()]
    texts = polars.col(polars.String).str.strip_chars()
    here = texts.is_in([*marks])
    if plain:
        here = here | without_zero_decimals(texts).is_in(plain)
    frame = frame.with_columns(polars.when(~here).then(texts))
    numeric = [name for name, dtype in frame.schema.items() if numbers and dtype.is_numeric()]
    return frame.with_columns(
        polars.when(~polars.col(name).cast(polars.Float64).is_in([*numbers])).then(polars.col(name)) for name in numeric
    )
