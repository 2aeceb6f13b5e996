"""Dates and times as numbers: some that grow with time, and some that repeat with the day, the week and the year."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from dense_xp.tables.columns import Host, check_kind, check_standard, counted, filled_text
from dense_xp.tables.errors import TableError, require_polars

if TYPE_CHECKING:
    import polars as pl

YEAR = 365.2425
"""Mean length of a Gregorian year, in days."""

_DAY = 86400.0  # in seconds
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

_NAMED = rf"(?P<name>{'|'.join(_MONTHS)})[a-z]*\.?"
_DAY_OF_MONTH = r"(?P<day>\d{1,2})(?:st|nd|rd|th|\.)?"
_SHAPES = (
    r"(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})",
    r"(?:^|\D)(?P<first>\d{1,2})[-/.](?P<second>\d{1,2})[-/.](?P<year>\d{4}|\d{2})\b",
    rf"(?:^|\D){_DAY_OF_MONTH}[-\s]*{_NAMED}[-,\s]*(?P<year>\d{{4}}|\d{{2}})\b",
    rf"{_NAMED}\s*{_DAY_OF_MONTH},?\s*(?P<year>\d{{4}}|\d{{2}})\b",
)
_CLOCK = r"(?:^|[t,\s])(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}(?:[.,]\d+)?))?\s*(?P<half>[ap])?"
_FEATURES = {
    "day": ("day",),
    "year": ("year",),
    "month": tuple(f"month={name}" for name in _MONTHS),
    "weekday": tuple(f"weekday={name}" for name in _WEEKDAYS),
    "day of year": ("day of year, sine", "day of year, cosine"),
    "time of day": ("time of day, sine", "time of day, cosine"),
}


@dataclass(frozen=True)
class Dates:
    """A column of days, times, or both.

    Day and year are standardised numbers; month and weekday are one-hot encoded; day of the year and time of day are
    the sine and cosine of an angle, so that their ends meet. A part that is the same in all training rows is left out,
    and a missing date is 0 everywhere.

    Attributes
    ----------
    name : str
        Of the column.
    parts : sequence of str
        Those that vary of ``"day"``, ``"year"``, ``"month"``, ``"weekday"``, ``"day of year"`` and ``"time of day"``.
    mean, scale : float
        Mean and standard deviation of the training rows, in days since 1970.
    order : {"", "month first", "day first"}
        How the training rows write 6/7/2024, if they do.
    missing : int
        How many of the training rows had no date: if any, a missing one has a feature of its own.
    """

    name: str
    parts: Sequence[str]
    mean: float = 0.0
    scale: float = 1.0
    order: str = ""
    missing: int = 0

    kind: ClassVar[str] = "date"

    def __post_init__(self) -> None:
        check_kind("name", self.name, str)
        check_standard(self.name, self.mean, self.scale)
        if self.order not in ("", "month first", "day first"):
            raise ValueError(f"the order is {self.order!r}")
        check_kind("missing", self.missing, int)
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts or not set(self.parts) <= set(_FEATURES) or len(set(self.parts)) < len(self.parts):
            raise ValueError(f"the column {self.name!r} has the parts {self.parts!r}")

    @classmethod
    def fit(cls, column: pl.Series) -> Self | str:
        """Learn from a column; return why it is left out if there is nothing to learn."""
        order = _order(column)
        days, seconds = _read(column, order)
        absent = np.isnan(days) & np.isnan(seconds)
        if absent.all():
            return "no values" if column.null_count() == len(column) else "no dates that can be read: write 2024-12-31"
        known, when = days[~np.isnan(days)], seconds[~np.isnan(seconds)]
        parts = []
        if len(known) and known.min() < known.max():
            parts = ["day", *(part for part, values in _counted(known).items() if values.min() < values.max())]
        if len(when) and when.min() < when.max():
            parts.append("time of day")
        if not parts:
            return f"constant, {column.drop_nulls()[0]}"
        mean, scale = (float(known.mean()), float(known.std())) if "day" in parts else (0.0, 1.0)
        return cls(column.name, parts, mean, scale, order, int(absent.sum()))

    @property
    def features(self) -> list[str]:
        """The names of the features."""
        names = [feature for part in self.parts for feature in _FEATURES[part]] + ["missing"] * bool(self.missing)
        return [f"{self.name}: {name}" for name in names]

    @property
    def report(self) -> str:
        """What was done with the column."""
        around = f" around {np.datetime64(int(self.mean), 'D')}" if "day" in self.parts else ""
        order = f", {self.order}" if self.order else ""
        return f"{', '.join(self.parts)}{around}{order}{filled_text(self.missing, 'a value of its own')}"

    def encode(self, column: pl.Series, into: Host) -> None:
        """Write the features of each row into an array of zeros."""
        days, seconds = _read(column, self.order)
        at = 0
        for part in self.parts:
            values = seconds if part == "time of day" else days
            rows = np.flatnonzero(~np.isnan(values))
            into[rows, at : at + len(_FEATURES[part])] = self._encoded(part, values[rows])
            at += len(_FEATURES[part])
        if self.missing:
            into[np.isnan(days) & np.isnan(seconds), at] = 1.0

    def _encoded(self, part: str, values: Host) -> Host:
        if part == "day":
            return ((values - self.mean) / self.scale)[:, None]
        if part == "time of day":
            return _on_circle(values / _DAY)
        counts = _counted(values)[part]
        if part == "year":
            return ((counts - 1969.5 - self.mean / YEAR) / (self.scale / YEAR))[:, None]
        if part == "day of year":
            return _on_circle(counts / YEAR)
        return np.eye(len(_FEATURES[part]))[counts]

    def notes(self, column: pl.Series) -> Iterator[str]:
        """Yield a line if dates are missing, and how they are encoded."""
        days, seconds = _read(column, self.order)
        if absent := int((np.isnan(days) & np.isnan(seconds)).sum()):
            taken = "a value of its own" if self.missing else "the mean"
            yield f"{self.name}: no date that can be read in {counted(absent, 'row')}, taken as {taken}"


def _on_circle(turns: Host) -> Host:
    return np.stack([np.sin(2 * np.pi * turns), np.cos(2 * np.pi * turns)], axis=1)


def _counted(days: Host) -> dict[str, Host]:
    """Return year, month, weekday and day of the year of days since 1970, the last three counted from 0."""
    dates = np.floor(days).astype("datetime64[D]")
    years, months = dates.astype("datetime64[Y]"), dates.astype("datetime64[M]")
    return {
        "year": years.astype(np.int64) + 1970,
        "month": months.astype(np.int64) % 12,
        "weekday": (dates.astype(np.int64) + 3) % 7,  # 1 January 1970 was a Thursday
        "day of year": (dates - years).astype(np.int64),
    }


def _read(column: pl.Series, order: str) -> tuple[Host, Host]:
    """Return days since 1970 and seconds since midnight, in local time as written; NaN for missing values."""
    pl = require_polars()
    nothing = np.full(len(column), np.nan)
    dtype = column.dtype
    if dtype == pl.String:
        return _read_texts(column, order)
    if dtype == pl.Null:
        return nothing, nothing
    if not isinstance(dtype, pl.Date | pl.Datetime | pl.Time):
        raise TableError(f"{column.name} holds values of the type {dtype}, and must hold dates")
    seconds = nothing
    if not isinstance(dtype, pl.Date):
        if isinstance(dtype, pl.Datetime):
            column = column.dt.replace_time_zone(None)
        seconds = _floats((column if dtype == pl.Time else column.dt.time()).cast(pl.Int64)) / 1e9
        if dtype == pl.Time:
            return nothing, seconds
    return _floats(column.dt.date().cast(pl.Int32)) + np.nan_to_num(seconds) / _DAY, seconds


def _floats(column: pl.Series) -> Host:
    return np.asarray(column.cast(require_polars().Float64).to_numpy())


def _fields(texts: pl.Series, pattern: str) -> pl.DataFrame:
    return texts.str.to_lowercase().str.extract_groups(pattern).struct.unnest()


def _read_texts(texts: pl.Series, order: str) -> tuple[Host, Host]:
    pl = require_polars()
    days = pl.Series("", [None] * len(texts), dtype=pl.Date)
    for shape in _SHAPES:
        found = _fields(texts, shape)
        if "first" in found.columns:
            names = ("day", "month") if order == "day first" else ("month", "day")
            found = found.rename(dict(zip(("first", "second"), names, strict=True)))
        if "name" in found.columns:
            numbers = {name: str(number) for number, name in enumerate(_MONTHS, start=1)}
            found = found.with_columns(pl.col("name").replace(numbers).alias("month"))
        year = pl.col("year").cast(pl.Int64)
        century = pl.when(pl.col("year").str.len_chars() == 4).then(0).when(year < 69).then(2000).otherwise(1900)
        written = pl.concat_str(
            (year + century).cast(pl.String), pl.col("month").str.zfill(2), pl.col("day").str.zfill(2), separator="-"
        )
        days = days.fill_null(found.select(written.str.to_date("%Y-%m-%d", strict=False)).to_series())
    clock = _fields(texts, _CLOCK).select(
        pl.all(),
        pl.all().str.replace(",", ".").cast(pl.Float64, strict=False).fill_null(0.0).name.suffix("_number"),
    )
    hour = pl.when(pl.col("half").is_null()).then(pl.col("hour_number")).otherwise(pl.col("hour_number") % 12)
    hour = hour + pl.when(pl.col("half") == "p").then(12).otherwise(0)
    total = hour * 3600 + pl.col("minute_number") * 60 + pl.col("second_number")
    there = pl.col("hour").is_not_null() & (total < _DAY)
    seconds = _floats(clock.select(pl.when(there).then(total)).to_series())
    return _floats(days.cast(pl.Int32)) + np.nan_to_num(seconds) / _DAY, seconds


def _order(column: pl.Series) -> str:
    """Return how texts write 6/7/2024: as most unambiguous ones; without these, day first only with points."""
    pl = require_polars()
    if column.dtype != pl.String:
        return ""
    found = _fields(column, _SHAPES[1])
    known = found.filter(pl.col("first").is_not_null()).select(pl.col("first", "second").cast(pl.Int64))
    if not known.height:
        return ""
    texts = column.filter(found["first"].is_not_null())
    by_day, by_month = (int((known[name] > 12).sum()) for name in ("first", "second"))
    if by_day == by_month:
        by_day += bool(texts.str.contains(r"\d{1,2}\.\d{1,2}\.").all())
    return "day first" if by_day > by_month else "month first"
