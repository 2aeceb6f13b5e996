"""Tables: what is read from a file, what a network sees of it, and the way back."""

from __future__ import annotations

import contextlib
import gzip
import json
import time
import zlib
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pl = pytest.importorskip("polars")

from dense_xp import tables  # noqa: E402
from dense_xp.tables import Category, Classes, Dates, Encoder, Number, Quantity, make_target, split, task_of  # noqa: E402
from dense_xp.tables.columns import numbers_of  # noqa: E402
from dense_xp.tables.delimited import MISSING  # noqa: E402
from dense_xp.tables.errors import TableError  # noqa: E402
from dense_xp.tables.files import read, read_table, write  # noqa: E402


def csv(folder: Path, text: str | bytes, name: str = "table.csv") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


# ------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a,b\n1,x\n2,y\n", [(1, "x"), (2, "y")]),
        ("a;b\n1;x\n2;y\n", [(1, "x"), (2, "y")]),
        ("a\tb\n1\tx, y\n2\ty\n", [(1, "x, y"), (2, "y")]),
        ("a|b\n1|x\n2|y\n", [(1, "x"), (2, "y")]),
        ('a,b\n1,"x, y"\n2,"line\nbreak"\n', [(1, "x, y"), (2, "line\nbreak")]),
        ("\ufeffa,b\r\n1,x\r\n2,y\r\n", [(1, "x"), (2, "y")]),
        ("a, b\n1, x \n2, NA\n", [(1, "x"), (2, None)]),
        ("a;b\n1,5;x\n2;y\n", [(1.5, "x"), (2.0, "y")]),
        ("a,b\n1,x\n\n?,n/a\n2.5,y\n", [(1.0, "x"), (2.5, "y")]),
        ("a,b\n1e3,True\n-.5,false\n", [(1000.0, True), (-0.5, False)]),
        ("a,b\n007,x\n123,y\n", [("007", "x"), ("123", "y")]),
        ("a,b\n1,x\n2,\nz,y\n", [("1", "x"), ("2", None), ("z", "y")]),
        ("a,b\n9999999999999999999999,1\n3,2\n", [(1e22, 1), (3.0, 2)]),
        ('a,b\n1,5" pipe\n2,"6"" pipe, red"\n', [(1, '5" pipe'), (2, '6" pipe, red')]),
        ('a,b\n5",x\n6",y\n', [('5"', "x"), ('6"', "y")]),
        ('a,b\n5",x\n"6",y\n', [('5"', "x"), ("6", "y")]),
        ('a,b\n1,"Jo" Smith\n2,"unclosed\n3,\n', [(1, '"Jo" Smith'), (2, '"unclosed'), (3, None)]),
        ('a, b\n1, "x, y"\n\n2, "z"\n', [(1, "x, y"), (2, "z")]),
        ("sep=;\na;b\n1;x,y\n", [(1, "x,y")]),
        ('\ufeff"sep=|"\r\na|b\r\n1|x\r\n', [(1, "x")]),
        ("sep=^\na^b\n1^]\n", [(1, "]")]),
        ('a,b\r1,x\r2,"y\rz"\r', [(1, "x"), (2, "y\rz")]),
        ("a,b\n1,x\na,b\n2,y\n a , b\n", [(1, "x"), (2, "y")]),
        ('"a","b"\n"1","x"\n', [(1, "x")]),
        ("a,b,\n1,x,\n2,y,\n", [(1, "x", None), (2, "y", None)]),
        ("a,b\n1,x,\n2,y,\n", [(1, "x", None), (2, "y", None)]),
        ("a;b\n1;x\n2;y;\n"[:-2] + "\n", [(1, "x"), (2, "y")]),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_csv_files_of_many_kinds(tmp_path: Path, text: str, rows: list[Any]) -> None:
    frame = read(csv(tmp_path, text))
    assert frame.columns == ["a", "b", ""][: len(rows[0])]
    assert frame.rows() == rows


def test_names_of_rows_without_a_name(tmp_path: Path) -> None:
    """As R writes them."""
    frame = read(csv(tmp_path, '"a"\t"b"\n"r 1"\t1\t"x"\n"r 2"\t2\t"y"\n'))
    assert frame.columns == ["", "a", "b"]
    assert frame.rows() == [("r 1", 1, "x"), ("r 2", 2, "y")]


def test_a_single_column(tmp_path: Path) -> None:
    assert read(csv(tmp_path, "a\nUSD 1,200\nUSD 300\n"))["a"].to_list() == [1200, 300]
    assert read(csv(tmp_path, "a\n1,5\n2;5\n"))["a"].to_list() == ["1,5", "2;5"]


@pytest.mark.parametrize(
    "day",
    [
        "6/28/2022", "28/6/2022", "6/28/22", "9/24/2021 1:19 PM", "Mar 14, 2021", "March 14 2021", "14 March 2021",
        "14-Mar-21", "2. Sept. 2021", "Mon, 14 Mar 2021 10:30:00 GMT", "2021-03-14T10:00:00Z", "2021-03-14 10:00+02:00",
        "2021/3/4", "4.3.2021 10:30", "1:19 pm", "10:30:00.5", "May 3rd, 2021",
    ],
)  # fmt: skip
def test_texts_that_are_dates(day: str) -> None:
    """As a feature used, and here the same in all rows; as a target refused, with few or many of them."""
    frame = pl.DataFrame({"d": [day] * 9 + ["unknown", None], "x": np.arange(11) % 3, "y": np.arange(11) * 1.5})
    assert Encoder.fit(frame, "y").left_out["d"] == f"constant, {day}"
    with pytest.raises(TableError, match="the target d holds dates or times"):
        make_target(frame["d"].drop_nulls())


@pytest.mark.parametrize("text", ["1.2.3", "12-34", "A 3/4/2021", "May", "10:1", "555-12-3456", "2021-13", "5/8", "x"])
def test_texts_that_are_no_dates(text: str) -> None:
    frame = pl.DataFrame({"d": [text, "other"] * 6, "x": np.arange(12) % 3, "y": np.arange(12) * 1.5})
    assert "d" not in Encoder.fit(frame, "y").left_out


DAYS = {
    "6/28/2022": ("2022-06-28", None), "28/6/2022": ("2022-06-28", None), "6/28/22": ("2022-06-28", None),
    "9/24/2021 1:19 PM": ("2021-09-24", 47940), "Mar 14, 2021": ("2021-03-14", None),
    "14 March 2021": ("2021-03-14", None), "March 14 2021": ("2021-03-14", None),
    "14-Mar-21": ("2021-03-14", None), "2. Sept. 2021": ("2021-09-02", None),
    "Mon, 14 Mar 2021 10:30:00 GMT": ("2021-03-14", 37800), "2021-03-14T10:00:00Z": ("2021-03-14", 36000),
    "2021-03-14 10:00+02:00": ("2021-03-14", 36000), "2021/3/4": ("2021-03-04", None),
    "4.3.2021 10:30": ("2021-03-04", 37800), "1:19 pm": (None, 47940), "12:10 am": (None, 600),
    "12:10 pm": (None, 43800),
    "10:30:00.5": (None, 37800.5), "10:30:00,5": (None, 37800.5), "May 3rd, 2021": ("2021-05-03", None),
    "Sept 5 69": ("1969-09-05", None), "Sept 5 68": ("2068-09-05", None),
    "2024-05-41": (None, None), "2024-02-30": (None, None), "30/30/2024": (None, None), "25:00": (None, None),
}  # fmt: skip


@pytest.mark.parametrize("text", DAYS)
def test_what_a_date_means(text: str) -> None:
    """Told from a column in which another row has another day and another time."""
    day, seconds = DAYS[text]
    others = [f"2000-01-{i:02} 0{i % 10}:00" for i in range(1, 32)]
    column = pl.Series("d", [text, *others])
    dates = Dates.fit(column)
    assert isinstance(dates, Dates)
    into = np.zeros((len(column), len(dates.features)))
    dates.encode(column, into)
    row = dict(zip(dates.features, into[0], strict=True))
    if day is None:
        assert not any(value for name, value in row.items() if "time" not in name and "missing" not in name)
    else:
        number = (np.datetime64(day) - np.datetime64("1970-01-01")).astype(int) + (seconds or 0) / 86400
        assert row["d: day"] * dates.scale + dates.mean == pytest.approx(number, rel=1e-12)
        weekday = ("Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed")[int(number) % 7]
        assert row[f"d: weekday={weekday}"] == 1
    if seconds is not None:
        angle = np.arctan2(row["d: time of day, sine"], row["d: time of day, cosine"])
        assert angle % (2 * np.pi) == pytest.approx(2 * np.pi * seconds / 86400)
    assert row.get("d: missing", 0) == (day is None and seconds is None)


@pytest.mark.parametrize(
    ("texts", "order", "first"),
    [
        (["6/7/2022", "13/7/2022"], "day first", "2022-07-06"),
        (["6/7/2022", "7/13/2022"], "month first", "2022-06-07"),
        (["6/7/2022", "7/8/2022"], "month first", "2022-06-07"),
        (["6.7.2022", "7.8.2022"], "day first", "2022-07-06"),
        (["2022-07-06", "2022-08-07"], "", "2022-07-06"),
    ],
)
def test_whether_the_day_or_the_month_is_first_is_told_by_the_column(texts: list[str], order: str, first: str) -> None:
    dates = Dates.fit(pl.Series("d", texts))
    assert isinstance(dates, Dates)
    assert dates.order == order
    assert order in dates.report
    into = np.zeros((2, len(dates.features)))
    dates.encode(pl.Series("d", texts), into)
    day = into[0, 0] * dates.scale + dates.mean
    assert day == pytest.approx((np.datetime64(first) - np.datetime64("1970-01-01")).astype(int))


def test_dates_are_the_same_however_the_file_has_them() -> None:
    column = pl.datetime_range(pl.datetime(2019, 12, 30), pl.datetime(2021, 2, 1), "13h", eager=True).alias("d")
    dates = Dates.fit(column)
    assert isinstance(dates, Dates)
    assert dates.parts == ("day", "year", "month", "weekday", "day of year", "time of day")
    expected = np.zeros((len(column), len(dates.features)), dtype="float32")
    dates.encode(column, expected)
    assert abs(expected[:, :2].mean(axis=0)).max() < 0.5
    assert np.isfinite(expected).all()
    for other in (
        column.dt.to_string("%B %d, %Y %I:%M %p"), column.dt.to_string("%Y/%m/%dT%H:%M:%SZ"),
        column.dt.cast_time_unit("ms"), column.dt.replace_time_zone("Asia/Tokyo"),
    ):  # fmt: skip
        into = np.zeros_like(expected)
        dates.encode(other, into)
        np.testing.assert_allclose(into, expected, atol=1e-6)
    days = Dates.fit(column.dt.date())
    assert isinstance(days, Dates)
    assert days.parts == dates.parts[:-1]
    clock = Dates.fit(column.dt.time())
    assert isinstance(clock, Dates)
    assert clock.parts == ("time of day",)
    with pytest.raises(TableError, match="d holds values of the type Int64, and must hold dates"):
        dates.encode(pl.Series("d", [1]), np.zeros((1, len(dates.features))))
    absent = pl.Series("d", [None, "never"])
    into = np.zeros((2, len(dates.features)))
    dates.encode(absent, into)
    assert not into.any()
    assert [*dates.notes(absent)] == ["d: no date that can be read in 2 rows, taken as the mean"]


@pytest.mark.parametrize("change", [{"parts": ["hour"]}, {"parts": []}, {"scale": 0.0}, {"mean": 1}, {"order": "x"}])
def test_a_strange_configuration_of_dates_is_refused(change: dict[str, Any]) -> None:
    column = pl.Series("d", ["2020-01-01", "2021-02-02"] * 2)
    encoder = Encoder.fit(pl.DataFrame({"d": column, "y": [1.0, 2.0, 3.0, 4.5]}), "y")
    config = encoder.get_config()
    assert Encoder.from_config(json.loads(json.dumps(config))) == encoder
    config["columns"][0] |= change
    with pytest.raises(ValueError, match="does not fit together"):
        Encoder.from_config(config)


@pytest.mark.parametrize("day", ["2024-02-29", "29.02.2024", "2024-02-29 10:30:00", "10:30:00"])
def test_dates_are_known_as_dates(tmp_path: Path, day: str) -> None:
    assert read(csv(tmp_path, f"d,x\n{day},1\n,2\n"))["d"].dtype.is_temporal()


def test_the_first_line_in_other_rows_is_told(tmp_path: Path) -> None:
    found = read_table(csv(tmp_path, "a,b\n1,x\na,b\n2,y\na,b\n"))
    assert found.notes == ["the first line stands in 2 other rows too: left out"]
    assert found.frame.rows() == [(1, "x"), (2, "y")]
    assert read(csv(tmp_path, "a,,\n1,2,3\na,,\n")).rows() == [(1, 2, 3)]
    assert read_table(csv(tmp_path, "a\n1\na\n")).frame["a"].to_list() == ["1", "a"]


@pytest.mark.parametrize("size", [100, 2**16 - 30, 2**16, 200_000, 2**20])
@pytest.mark.parametrize("separator", [",", ";"])
def test_records_of_many_lines_are_read_to_their_end(tmp_path: Path, size: int, separator: str) -> None:
    text = 'line; one, "two"\n' * (size // 17)
    quoted = text.replace('"', '""')
    for path in (
        csv(tmp_path, f'a{separator}b\n1{separator}"{quoted}"\n2{separator}x\n'),
        csv(tmp_path, f'a{separator}b\n1{separator}"{quoted}"\n2{separator}x"\n', "stray.csv"),
    ):
        frame = read(path)
        assert frame.columns == ["a", "b"]
        assert frame["a"].to_list() == [1, 2]
        assert frame["b"][0] == text.strip()
    name = "first\nsecond\n" * (size // 13)
    frame = read(csv(tmp_path, f'a{separator}"{name}"\n1{separator}2\n'))
    assert frame.columns == ["a", name.strip()]
    assert frame.rows() == [(1, 2)]


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_both_ways_to_read_a_file_agree(tmp_path: Path, ending: str) -> None:
    """The rules by polars; and by hand, as a stray quote in one more row makes it."""
    rng = np.random.default_rng(0)
    pieces = ["x", " ", ",", '""', "\n", "", "7", "é"]
    rows = [
        ['"' + "".join(rng.choice(pieces, 4)) + '"' if rng.random() < 0.5 else "z" for _ in range(3)]
        for _ in range(300)
    ]
    lines = ["a,b,c", *map(",".join, rows)]
    fast = read(csv(tmp_path, "\n".join(lines) + ending), texts=["a", "b", "c"])
    slow = read(csv(tmp_path, "\n".join([*lines, 'q"q,z,z']) + ending), texts=["a", "b", "c"])
    assert slow[-1].row(0) == ('q"q', "z", "z")
    assert fast.equals(slow[:-1])


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["$16,837", "$-5", "$1.50"], [16837.0, -5.0, 1.5]),
        (["5.40%", "12%", None], [5.4, 12.0, None]),
        (["7,595", "12", "1,234,567"], [7595, 12, 1234567]),
        (["7,595", "12.5", "1,234,567.25"], [7595.0, 12.5, 1234567.25]),
        (["7.595", "12,5", "1.234.567,25"], [7595.0, 12.5, 1234567.25]),
        (["€ 1.234,50", "€ 3"], [1234.5, 3.0]),
        (["1.234,50 €", "-3 €"], [1234.5, -3.0]),
        (["1'234.5", "12"], [1234.5, 12.0]),
        (["1 234", "1\u00a0234", "1\u202f234 567"], [1234, 1234, 1234567]),
        (["12,34,567", "1,00,000"], [1234567, 100000]),
        (["(1,234.5)", "5"], [-1234.5, 5.0]),
        (["−5", "3"], [-5, 3]),
        (["CHF 12", "CHF 1'200"], [12, 1200]),
        (["0,123", "7,595"], [0.123, 7.595]),
        (["1,5e3", "2"], [1500.0, 2.0]),
        (["+5", ".5", "5.", "-inf"], [5.0, 0.5, 5.0, float("-inf")]),
        (["1,234", "5.678"], [1234.0, 5.678]),
        (["1,5", "2,25"], [1.5, 2.25]),
        (["$5", "€5"], ["$5", "€5"]),
        (["5%", "0.05"], ["5%", "0.05"]),
        (["12,5", "12.5"], ["12,5", "12.5"]),
        (["1,23", "1,234,567"], ["1,23", "1,234,567"]),
        (["041 555 12 12", "1"], ["041 555 12 12", "1"]),
        (["1e5", "٣"], ["1e5", "٣"]),
        (["1.2.3", "1.2.4"], ["1.2.3", "1.2.4"]),
        (["$", "5"], ["$", "5"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_numbers_as_people_write_them(tmp_path: Path, texts: list[Any], values: list[Any], separator: str) -> None:
    """The column decides, and not the separator."""
    pl.DataFrame({"x": texts, "z": ["a"] * len(texts)}).write_csv(tmp_path / "a.csv", separator=separator)
    assert read(str(tmp_path / "a.csv"))["x"].to_list() == values
    frame = pl.DataFrame({"x": texts})  # as texts, which a Parquet file may hold
    if not isinstance(values[0], str):
        known = [np.nan if value is None else float(value) for value in values]
        np.testing.assert_array_equal(numbers_of(frame["x"]), known)


@pytest.mark.parametrize(
    ("text", "value", "others", "note"),
    [
        ("1.234", 1.234, "", "is read as 1.234 (--decimal , if it is not)"),
        ("1,234", 1234, "", "is read as 1234 (--decimal , if it is not)"),
        ("1.234", 1234, "12,5", "is read as 1234 (--decimal . if it is not)"),
        ("1,234", 1.234, "12,5", "is read as 1.234 (--decimal . if it is not)"),
        ("1,234", 1234, "12.5", "is read as 1234 (--decimal , if it is not)"),
    ],
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_column_that_leaves_its_decimal_sign_open(
    tmp_path: Path, text: str, value: float, others: str, note: str, separator: str
) -> None:
    """The other columns of the file decide; it is told, and may be said."""
    if separator == ";" and text == "1,234" and not others:
        value, note = 1.234, "is read as 1.234 (--decimal . if it is not)"
    path = str(tmp_path / "a.csv")
    pl.DataFrame({"x": [text, "950"], "z": [others, "1"]}).write_csv(path, separator=separator)
    found = read_table(path)
    assert found.frame["x"].to_list() == [value, 950]
    assert found.readings == {"x": f"x: {text!r} {note}"}
    again = read_table(path, decimals=found.decimals)
    assert again.frame.equals(found.frame)
    assert "--decimal" not in again.readings["x"]
    for sign in ".,":
        wanted = float(text.replace(",", ".")) if sign in text else float(text.replace(",", "").replace(".", ""))
        for said in (sign, {"x": sign}):
            assert read(path, decimals=said)["x"].to_list() == [wanted, 950]


@pytest.mark.parametrize("texts", [["1,5", "2,25"], ["1.5", "2.25"], ["1", "1000"], ["0.123", "1.234"]], ids=str)
def test_what_is_plain_is_not_told(tmp_path: Path, texts: list[str]) -> None:
    pl.DataFrame({"x": texts}).write_csv(tmp_path / "a.csv", separator=";")
    assert not read_table(str(tmp_path / "a.csv")).readings


def test_what_is_a_text_and_what_is_missing_may_be_said(tmp_path: Path) -> None:
    path = csv(tmp_path, "zip,n\n8000,-\n3000,2\n")
    assert read(path).rows() == [(8000, "-"), (3000, "2")]
    assert read(path, texts=["zip"], missing=["-"]).rows() == [("8000", None), ("3000", 2)]


def test_a_mark_may_be_a_value_and_a_number(tmp_path: Path) -> None:
    path = csv(tmp_path, "k,n,zip\nNA,-999,-999\nK,-999.0,8000\nNone,$-999,-999.00\n,5.25,8001.0\n")
    assert read(path)["k"].to_list() == [None, "K", None, None]
    assert read(path, values=["NA", "None"])["k"].to_list() == ["NA", "K", "None", None]
    numbers = csv(tmp_path, "n,m\n-999,1\n-999.0,2\n5.25,3\n", "numbers.csv")
    assert read(numbers, missing=["-999"])["n"].to_list() == [None, None, 5.25]
    assert read(path, missing=["-999"], texts=["zip"])["zip"].to_list() == ["8000", None, "8001.0"]


def test_columns_without_a_name_at_the_end(tmp_path: Path) -> None:
    """As spreadsheets write them; there may be several."""
    frame = read(csv(tmp_path, "a,y,,\n1,2.5,,\n2,3.5,,\n3,9,,\n"))
    assert frame.rows() == [(1, 2.5, None, None), (2, 3.5, None, None), (3, 9.0, None, None)]
    encoder = Encoder.fit(frame, "y")
    assert encoder.features == ["a"]
    assert set(encoder.left_out.values()) == {"no values"}


@pytest.mark.parametrize("name", ["table.csv.gz", "table.csv"])
def test_compressed_csv(tmp_path: Path, name: str) -> None:
    path = csv(tmp_path, gzip.compress(b"a;b\n1;x\n"), name)
    assert read(path).rows() == [(1, "x")]


@pytest.mark.parametrize("compress", [zlib.compress, lambda data: b"\x28\xb5\x2f\xfd" + data, gzip.compress])
def test_what_polars_would_unpack_by_itself_is_refused(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    """Its size would not be known before."""
    for name in ("table.csv", "table.csv.gz"):
        data = compress(b"a,b\n" + b"1,2\n" * 1000)
        path = csv(tmp_path, gzip.compress(data) if name.endswith("gz") or compress is gzip.compress else data, name)
        with pytest.raises(TableError, match="is compressed in a way that is not read here: unpack it first"):
            read(path)


@pytest.mark.parametrize(
    "piece",
    ['"', 'a"\n ', ';,"', ' "\n,', '"\n', '""', '"""', '"a""\n', '"a,"\n', 'x,"\n', '"\n"', '"a"b,"c""\n', '," '],
)
@pytest.mark.parametrize("head", ["a,b\n", "a;b\n1;2\n"])
def test_quotes_in_disorder_take_linear_time(tmp_path: Path, piece: str, head: str) -> None:
    path = csv(tmp_path, head + piece * (2**20 // len(piece)))
    start = time.perf_counter()
    with contextlib.suppress(TableError):
        read(path)
    assert time.perf_counter() - start < 10  # a tenth of a second; a way that is quadratic takes hours


@pytest.mark.parametrize("name", ["a.csv.gz", "a.npz", "a.parquet"])
def test_small_files_that_grow_are_refused(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / name)
    n = 2**25
    if name == "a.npz":
        np.savez_compressed(path, X=np.zeros((n // 8, 1)))
    elif name == "a.parquet":
        pl.DataFrame({"a": pl.repeat(0, n, eager=True)}).write_parquet(path)
    else:
        Path(path).write_bytes(gzip.compress(b"a\n" + b"1\n" * (n // 2)))
    assert Path(path).stat().st_size < 200_000
    with pytest.raises(TableError, match=r"far more than others of its size: .* say --unlimited"):
        read(path)
    assert read(path, unlimited=True).height >= n // 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "table.csv is empty"),
        (b"a,b\n", "has no rows below its first line"),
        (b"\xb6o\x826", "has no rows below its first line|is not text in UTF-8"),
        (b"a,a\n1,2\n", "two columns that are named 'a'"),
        (b"a,b\n1,2\n1,2,3\n", "more than the 2 values that its first line names"),
        ("a,b\nZürich,1\n".encode("latin-1"), "is not text in UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "is not text in UTF-8"),
        (bytes(range(256)), "is not text in UTF-8"),
    ],
)
def test_files_that_are_no_csv(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(TableError, match=message) as caught:
        read(csv(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_are_something_else(tmp_path: Path) -> None:
    path = csv(tmp_path, "a\n1\n")
    with pytest.raises(FileNotFoundError, match=r"no file '.*Tabel\.csv'; did you mean '.*table\.csv'"):
        read(path.replace("table", "Tabel"))
    with pytest.raises(TableError, match=r"ending must be \.csv"):
        read(str(tmp_path / "table.xlsx"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(TableError, match="is a folder"):
        read(str(tmp_path / "folder.csv"))
    with pytest.raises(TableError, match="cannot be read as parquet"):
        read(csv(tmp_path, "a\n1\n", "table.parquet"))
    with pytest.raises(TableError, match="cannot be read as npz"):
        read(csv(tmp_path, "a\n1\n", "table.npz"))


def test_parquet_and_npz(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1.5, None], "b": ["x", "y"]})
    for name in ("a.parquet", "a.csv", "a.tsv"):
        write(frame, str(tmp_path / name))
        assert read(str(tmp_path / name)).equals(frame)
    path = str(tmp_path / "a.npz")
    np.savez(path, X=np.arange(6.0).reshape(3, 2), y=np.array(["p", "q", "p"]))
    assert read(path).rows() == [(0.0, 1.0, "p"), (2.0, 3.0, "q"), (4.0, 5.0, "p")]
    assert read(path).columns == ["x0", "x1", "y"]
    write(pl.DataFrame({"kind": ["p", "q"], "P(p)": [0.25, 0.5], "file": [1, 2]}), path)
    with np.load(path, allow_pickle=False) as archive:
        assert archive["kind"].tolist() == ["p", "q"]
        assert archive["P(p)"].tolist() == [0.25, 0.5]
        assert archive["file"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.ones(2)}, r"needs an array X .* has the arrays \['y'\]"),
        ({"X": np.ones(2)}, r"needs an array X .* has shape \(2,\)"),
        ({"X": np.ones((2, 1)), "y": np.ones(3)}, r"y must have the shape \(2,\), and has \(3,\)"),
        ({"X": np.ones((2, 1)), "y": np.array([None, 1])}, "cannot be read as npz"),
        ({"X": np.array([["a"]])}, "numbers in X, and it holds <U1"),
        ({"X": np.ones((0, 3))}, "has no rows"),
    ],
)
def test_npz_files_of_another_layout(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(TableError, match=message):
        read(str(tmp_path / "a.npz"))


def test_without_polars(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import builtins

    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name == "polars":
            raise ModuleNotFoundError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "dense-xp\[cli\]"'):
        read(csv(tmp_path, "a\n1\n"))


# ------------------------------------------------------------------------------------- columns

TABLE = pl.DataFrame(
    {
        "size": [1.0, 2.0, None, 4.0, 5.0, float("inf")],
        "color": ["red", "blue", "red", None, "blue", "green"],
        "old": [True, False, True, False, True, True],
        "price": [10.0, 20.0, 30.0, 40.0, 50.0, 60.0],
    }
)


def test_numbers_are_standardised_and_missing_ones_are_the_mean() -> None:
    encoder = Encoder.fit(TABLE, "price")
    number = encoder.columns[0]
    assert number == Number("size", 3.0, 2.5**0.5, 2)
    X = encoder.encode(TABLE)
    assert X.dtype == np.float32
    np.testing.assert_allclose(X[:, 0], (np.array([1, 2, 3, 4, 5, 3]) - 3) / np.sqrt(2.5), rtol=1e-6)


def test_texts_have_a_place_for_each_value_and_for_rare_and_missing_ones() -> None:
    encoder = Encoder.fit(TABLE, "price")
    assert encoder.columns[1] == Category("color", ("blue", "red"), "text", other=True, missing=1)
    names = ["size", "color=blue", "color=red", "color: other", "color: missing", "old=false", "old=true"]
    assert encoder.features == names
    wanted = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0]]
    assert encoder.encode(TABLE)[:, 1:5].tolist() == wanted
    assert encoder.encode(TABLE)[:, 6].tolist() == [1, 0, 1, 0, 1, 1]


def test_other_tables_are_encoded_by_name() -> None:
    """Other order, other columns, other types and new values; each means what it meant in training."""
    encoder = Encoder.fit(TABLE, "price")
    other = pl.DataFrame(
        {"more": [1, 2, 3], "old": ["True", "false", None], "color": ["pink", "red", None], "size": ["3", None, "5"]}
    )
    X = encoder.encode(other)
    step = np.float32(2 / np.sqrt(2.5))
    assert X.tolist() == [[0, 0, 0, 1, 0, 0, 1], [0, 0, 1, 0, 0, 1, 0], [step, 0, 0, 0, 1, 0, 0]]
    assert encoder.notes(other) == [
        "size: no number in 1 row, taken as the mean 3",
        "old: no value in 1 row, taken as none of the known ones",
    ]
    assert encoder.notes(TABLE) == ["size: no number in 2 rows, taken as the mean 3"]
    known = Encoder.fit(pl.DataFrame({"c": ["a", "a", "b", "b"], "y": [1.0, 2.0, 3.0, 4.5]}), "y")
    new = pl.DataFrame({"c": ["z", "a"]})
    assert known.encode(new).tolist() == [[0, 0], [1, 0]]
    assert known.notes(new) == ["c: new values, such as 'z', in 1 row, taken as none of the known ones"]


def test_a_missing_value_is_not_another_value() -> None:
    """Without a missing value in the training, one has no place: not even that of the rare values."""
    encoder = Encoder.fit(pl.DataFrame({"c": ["a", "a", "b", "b", "z"], "y": [1.0, 2.0, 3.0, 4.5, 5.0]}), "y")
    assert encoder.features == ["c=a", "c=b", "c: other"]
    assert encoder.encode(pl.DataFrame({"c": [None, "new"]})).tolist() == [[0, 0, 0], [0, 0, 1]]


def test_numbers_as_names() -> None:
    """1, 1.0 and "1" are one name."""
    encoder = Encoder.fit(pl.DataFrame({"c": [1, 2, 1, 2], "y": [1.0, 2.0, 3.0, 4.5]}), "y", categories=["c"])
    assert encoder.features == ["c=1", "c=2"]
    for values in ([2, 1], [2.0, 1.0], ["2", "1"]):
        assert encoder.encode(pl.DataFrame({"c": values})).tolist() == [[0, 1], [1, 0]]


def test_codes_are_known_however_a_file_spells_them() -> None:
    """A gap in a column makes 8001.0 of 8001, also beside another value that is no whole number."""
    y = [1.0, 2.0, 3.0, 4.5]
    for learned in (["8001", "8002"] * 2, ["8001.0", "8002.0"] * 2, [8001, 8002] * 2, [8001.0, 8002.0] * 2):
        encoder = Encoder.fit(pl.DataFrame({"c": learned, "y": y}), "y", categories=["c"])
        for values in (["8002", "8001"], ["8002.0", "8001."], [8002, 8001], [8002.0, 8001.0], [8002.0, 8001.0, 0.5]):
            frame = pl.DataFrame({"c": values})
            assert encoder.encode(frame)[:2].tolist() == [[0, 1], [1, 0]]
            assert len(encoder.notes(frame)) == len(values) - 2
    versions = Encoder.fit(pl.DataFrame({"c": ["1", "1.0"] * 2, "y": y}), "y", categories=["c"])
    assert versions.encode(pl.DataFrame({"c": ["1", "1.0", "1.00"]})).tolist() == [[1, 0], [0, 1], [0, 0]]


def test_yes_and_no_are_known_however_a_file_spells_them() -> None:
    encoder = Encoder.fit(pl.DataFrame({"c": [True, False] * 2, "y": [1.0, 2.0, 3.0, 4.5]}), "y")
    for values in (["True", "FALSE"], [1, 0], [1.0, 0.0], ["1", "0"]):
        assert encoder.encode(pl.DataFrame({"c": values})).tolist() == [[0, 1], [1, 0]]


def test_the_most_frequent_values_have_a_place_and_the_others_share_one() -> None:
    column = pl.Series("c", [f"v{i}" for i in range(5) for _ in range(i + 1)])
    found = Category.fit(column, max_levels=2)
    assert isinstance(found, Category)
    assert found.levels == ("v3", "v4")
    assert found.other


@pytest.mark.parametrize(
    ("values", "name", "why"),
    [
        ([None, None, None, None], "c", "no values"),
        ([3, 3, None, 3], "c", "constant, 3"),
        (["a", "a", "a", "a"], "c", "constant, 'a'"),
        (["a", "b", "c", "d"], "c", "4 different texts in 4 rows"),
        (["1", "2", "3", "4.5", "5", "6", "7", "8", "9", "-"], "c", "if '-' stands for a missing value, say --missing"),
        ([f"00{i}" for i in range(9)], "c", "9 different texts in 9 rows"),
        ([5, 1, 7, 2], "customer_id", "identifier"),
        ([5, 1, 7, 2], "PassengerId", "identifier"),
        ([0, 1, 2, 3], "", "identifier"),
        ([[1], [2], [3], [4]], "c", "of the type List"),
        ([date(2024, 1, 1)] * 4, "c", "constant, 2024-01-01"),
        ([timedelta(1), timedelta(2), timedelta(3), timedelta(1)], "c", "of the type Duration"),
    ],
    ids=str,
)
def test_columns_that_are_left_out_and_why(values: Any, name: str, why: str) -> None:
    n = len(values)
    frame = pl.DataFrame({name: values, "x": np.arange(n) % 3, "y": np.arange(n) * 1.5})
    encoder = Encoder.fit(frame, "y")
    assert [column.name for column in encoder.columns] == ["x"]
    assert why in encoder.left_out[name]
    assert encoder.report()[-1] == (name or "(no name)", "left out", encoder.left_out[name])


def test_what_looks_like_an_identifier_and_is_none() -> None:
    frame = pl.DataFrame(
        {"x": [1, 2, 3, 4], "paid": [1, 2, 3, 4], "id": [1.5, 2.5, 3.0, 4.0], "y": [1.0, 2.0, 3.0, 5.0]}
    )
    assert [column.name for column in Encoder.fit(frame, "y").columns] == ["x", "paid", "id"]
    frame = frame.with_columns(id=pl.Series([9, 8, 7, 6]))
    assert "id" in Encoder.fit(frame, "y").left_out
    assert "id" not in Encoder.fit(frame, "y", numbers=["id"]).left_out
    assert Encoder.fit(frame, "y", drop=["x"]).left_out["x"] == "as asked for"


@pytest.mark.parametrize(
    "name", ["rownames", "Row Number", "row_id", "#", "S.No", "uuid", "customer no.", "OrderID", "idx", "Unnamed: 0"]
)
@pytest.mark.parametrize("dtype", [pl.Int64, pl.Float64])
def test_names_of_identifiers(name: str, dtype: Any) -> None:
    """With some repeats too, and as the numbers with decimals that a gap makes of them."""
    values = np.random.default_rng(0).permutation(1000)[:30]
    frame = pl.DataFrame({name: values, "x": np.arange(30) % 3, "y": np.arange(30) * 1.5}).cast({name: dtype})
    assert "every value differs" in Encoder.fit(frame, "y").left_out[name]
    repeated = frame.with_columns(pl.Series(name, [values[0], values[0], None, *values[3:]], dtype=dtype))
    assert "nearly every value differs" in Encoder.fit(repeated, "y").left_out[name]
    few = frame.with_columns(pl.Series(name, values % 10, dtype=dtype))
    assert name not in Encoder.fit(few, "y").left_out


def test_what_counts_the_rows_is_left_out_under_any_name() -> None:
    x, y = np.arange(300) % 7, np.arange(300) * 1.5
    for count in (np.arange(300), np.arange(1, 301), np.arange(300.0)):
        frame = pl.DataFrame({"x": x, "X": count, "y": y})
        for rows in (np.arange(300), split(300, 0.2, 0)[0]):
            assert "it counts the rows (--number" in Encoder.fit(frame[rows], "y").left_out["X"]
        assert not Encoder.fit(frame, "y", numbers=["X"]).left_out
    for other in (np.arange(1900, 2200), np.arange(300) * 7, np.arange(300)[::-1], np.arange(300) // 2, y):
        assert not Encoder.fit(frame.with_columns(X=other), "y").left_out


def test_texts_that_all_differ_are_a_category_if_asked_for() -> None:
    frame = pl.DataFrame({"c": ["a", "b", "c"], "x": [1, 2, 4], "y": [1.0, 2.0, 4.0]})
    assert Encoder.fit(frame, "y", categories=["c"]).features == ["c=a", "c=b", "c=c", "x"]


def test_columns_that_are_not_there_or_of_another_type() -> None:
    encoder = Encoder.fit(TABLE, "price")
    with pytest.raises(TableError, match=r"no column 'size', which the model needs; did you mean 'Size'\?"):
        encoder.encode(TABLE.rename({"size": "Size"}))
    with pytest.raises(TableError, match="size holds 'large', and must hold numbers"):
        encoder.encode(TABLE.with_columns(size=pl.Series(["1", "large", None, "2", "3", "4"])))
    with pytest.raises(TableError, match="color holds values of the type List"):
        encoder.encode(TABLE.with_columns(color=pl.Series([["x"]] * 6)))
    with pytest.raises(TableError, match="no column 'pice'; did you mean 'price'"):
        Encoder.fit(TABLE, "pice")
    with pytest.raises(TableError, match="no column 'none'"):
        Encoder.fit(TABLE, "price", drop=["none"])
    with pytest.raises(TableError, match=r"no column is left to learn price from \(size: as asked for"):
        Encoder.fit(TABLE, "price", drop=["size", "color", "old"])
    with pytest.raises(TableError, match="too large"):
        Encoder.fit(pl.DataFrame({"x": [1e308, -1e308, 1e308], "y": [1.0, 2.0, 4.0]}), "y")
    far = pl.DataFrame({"x": [1e308, -1e308, 1e308], "z": [1, 2, 4], "y": [1.0, 2.0, 4.0]})
    assert Encoder.fit(far, "y").left_out == {"x": "too large, too small or too close to be standardised"}
    with pytest.raises(TableError, match="the target x is too large, too small or too close"):
        Encoder.fit(far, "x")
    with pytest.raises(TableError, match="color holds texts, and not numbers"):
        Encoder.fit(TABLE, "price", numbers=["color"])


def test_the_rows_of_the_training_alone_are_learned_from() -> None:
    frame = pl.DataFrame({"x": [0.0, 1.0, 1000.0], "y": [0.5, 1.5, 1000.0]})
    encoder = Encoder.fit(frame[[0, 1]], "y")
    assert encoder.columns[0] == Number("x", 0.5, 0.5)
    assert encoder.target == Quantity("y", 1.0, 0.5)


# ------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["a", "b", "a"], "classification"),
        ([True, False, True], "classification"),
        ([0, 1, 0, 1], "classification"),
        ([1, 2, 3, 4, 5], "regression"),
        (list(range(20)) * 2, "classification"),
        (list(range(21)) * 2, "regression"),
        ([0.0, 1.0, 0.0, 1.0], "classification"),
        (pl.Series([0, 1, 0, 1], dtype=pl.Decimal(5, 2)), "classification"),
        ([float(i) for i in range(21)] * 2, "regression"),
        ([0.0, 1.0, 0.0, 0.5], "regression"),
        ([1e30, 2e30, 1e30, 2e30], "regression"),
        ([1.5, 2.5], "regression"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_the_kind_of_target_decides_the_task(values: list[Any], task: str) -> None:
    column = pl.Series("y", values)
    assert task_of(column)[0] == task
    assert isinstance(make_target(column), Classes if task == "classification" else Quantity)


def test_the_task_may_be_said() -> None:
    assert make_target(pl.Series("y", [3, 1, 3]), "regression") == Quantity("y", 7 / 3, float(np.std([3, 1, 3])))
    assert make_target(pl.Series("y", [0.0, 1.0]), "classification") == Classes("y", ("0", "1"), "number")
    assert make_target(pl.Series("y", ["p", "q", "r"]), "classification").n_outputs == 3
    with pytest.raises(ValueError, match="did you mean 'regression'"):
        make_target(pl.Series("y", [0.0, 1.0]), "regresion")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", None, "b"], "the target y is missing in 1 row, first in row 2"),
        ([1.0, float("nan"), float("inf")], "the target y is missing in 2 rows, first in row 2"),
        (["a", "a"], "y is 'a' in every row"),
        ([1.5, 1.5], "the target y is constant, 1.5 in the training rows"),
        ([f"name {i}" for i in range(30)], "30 different texts in 30 rows, too many for classes"),
        ([[1], [2]], "it must hold numbers or texts"),
        (pl.date_range(pl.date(2024, 1, 1), pl.date(2024, 1, 4), eager=True), "holds dates or times"),
    ],
    ids=str,
)
def test_targets_that_cannot_be_learned(values: Any, message: str) -> None:
    with pytest.raises(TableError, match=message):
        make_target(pl.Series("y", values))


@pytest.mark.parametrize(
    ("values", "labels"),
    [(["q", "p", "q"], ["p", "q"]), ([10, 9, 10, 9], ["9", "10"]), ([True, False], ["false", "true"])],
    ids=str,
)
def test_classes_come_back_as_they_were(values: list[Any], labels: list[str]) -> None:
    column = pl.Series("y", values)
    target = make_target(column)
    assert isinstance(target, Classes)
    assert list(target.labels) == labels
    codes = target.encode(column)
    logits = np.where(np.arange(2) == codes[:, None], 3.0, 1.0).astype("float32")
    predicted = target.decode(logits)
    assert predicted["y"].to_list() == values
    assert predicted["y"].dtype == column.dtype
    assert predicted.columns == ["y", *(f"P({label})" for label in labels)]
    p = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(predicted[:, 1:].to_numpy(), np.where(logits > 2, p, 1 - p), rtol=1e-6)


@pytest.mark.parametrize("values", [["p", "q"], [0, 1], [0.5, 1.5], [True, False]], ids=str)
def test_what_is_no_number_is_no_prediction(values: list[Any]) -> None:
    target = make_target(pl.Series("y", values * 3), None if values != [0.5, 1.5] else "regression")
    output = np.ones((5, target.n_outputs), dtype="float32")
    output[1:4, 0] = np.nan, np.inf, -np.inf
    predicted = target.decode(output)
    softmax_of_minus_infinity = target.n_outputs > 1
    assert all(column.null_count() == 3 - softmax_of_minus_infinity for column in predicted)
    assert predicted[[0, 4]].null_count().sum_horizontal().item() == 0


@pytest.mark.filterwarnings("error")
def test_numbers_far_out_are_not_the_mean() -> None:
    encoder = Encoder.fit(pl.DataFrame({"x": [1.0, 2.0, 4.0], "y": [1.0, 2.5, 4.0]}), "y")
    X = encoder.encode(pl.DataFrame({"x": [1e60, -1e308, 1e300, float("inf"), None]}))
    assert X[:, 0].tolist() == [np.inf, -np.inf, np.inf, 0, 0]
    tiny = Quantity("y", 0.0, 1e-305)
    assert tiny.decode(np.ones((1, 1), dtype="float32"))["y"].to_list() == [1e-305]


def test_a_class_that_the_model_does_not_know() -> None:
    encoder = Encoder.fit(pl.DataFrame({"x": [1, 2, 3, 4], "y": ["p", "q", "p", "q"]}), "y")
    with pytest.raises(TableError, match=r"y is 'r' in row 2, and the model knows the classes p, q"):
        encoder.encode_target(pl.DataFrame({"y": ["p", "r"]}))
    with pytest.raises(TableError, match="y is missing in 1 row"):
        encoder.encode_target(pl.DataFrame({"y": ["p", None]}))
    with pytest.raises(TableError, match="no column 'y', which the model predicts"):
        encoder.encode_target(pl.DataFrame({"x": [1]}))


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (1e6, 250.0), (-3e-9, 2e-12)])
def test_numbers_come_back_in_their_unit(mean: float, scale: float) -> None:
    values = mean + scale * np.array([-1.0, 1.0, 0.5])
    target = make_target(pl.Series("y", values))
    back = target.decode(target.encode(pl.Series("y", values))[:, None].astype("float32"))
    np.testing.assert_allclose(back["y"].to_numpy(), values, rtol=0, atol=2e-7 * scale)


# ------------------------------------------------------------------------------------- rows


def test_each_class_is_held_out_by_its_share() -> None:
    codes = np.repeat([0, 1, 2], [700, 250, 50])
    learn, out = split(1000, 0.2, 3, codes)
    assert sorted([*learn, *out]) == list(range(1000))
    for code, count in enumerate([140, 50, 10]):
        assert abs(int((codes[out] == code).sum()) - count) <= 1
    assert np.all(np.diff(learn) > 0)
    assert split(1000, 0.2, 3, codes)[1].tolist() == out.tolist()
    assert split(1000, 0.2, 4, codes)[1].tolist() != out.tolist()


def test_no_class_is_held_out_as_a_whole() -> None:
    codes = np.array([0, 1, 1, 2, 2, 2])
    for seed in range(20):
        learn, out = split(6, 0.9, seed, codes)
        assert set(codes[learn]) == {0, 1, 2}
        assert len(out) == 3


def test_many_small_classes_are_not_forgotten() -> None:
    codes = np.repeat(np.arange(50), 3)
    _, out = split(150, 0.2, 0, codes)
    assert len(out) == 30
    assert len(set(codes[out])) > 20


def test_sizes_of_a_split() -> None:
    assert [len(part) for part in split(10, 0.0, 0)] == [10, 0]
    assert [len(part) for part in split(10, 0.3, 0)] == [7, 3]
    assert [len(part) for part in split(3, 0.01, 0)] == [2, 1]
    with pytest.raises(TableError, match="1 row: too few"):
        split(1, 0.2, 0)


# ------------------------------------------------------------------------------------- as plain values


@pytest.mark.parametrize("target", ["price", "old"])
def test_an_encoder_comes_back_from_json(target: str) -> None:
    encoder = Encoder.fit(TABLE, target, drop=["color"])
    back = Encoder.from_config(json.loads(json.dumps(encoder.get_config())))
    assert back == encoder
    assert back.report() == encoder.report()
    np.testing.assert_array_equal(back.encode(TABLE), encoder.encode(TABLE))


def broken(change: Any) -> Any:
    config = json.loads(json.dumps(Encoder.fit(TABLE, "old").get_config()))
    changed = change(config)
    return config if changed is None else changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: [], "list indices"),
        (lambda c: c.pop("columns") and None, "no 'columns'"),
        (lambda c: c.update(columns=[]), "no columns"),
        (lambda c: c["columns"].append(c["columns"][0]), "the same name"),
        (lambda c: c["columns"][0].update(name="old"), "the same name"),
        (lambda c: c["columns"][0].update(kind="os.system"), "unknown kind 'os.system'"),
        (lambda c: c["columns"][0].update(kind="classes"), "unknown kind 'classes'"),
        (lambda c: c["columns"][0].update(rogue=1), "unexpected keyword argument 'rogue'"),
        (lambda c: c["columns"][0].update(mean="3"), "the mean '3'"),
        (lambda c: c["columns"][0].update(mean=float("nan")), "has the mean nan"),
        (lambda c: c["columns"][0].update(scale=0.0), "the scale 0.0"),
        (lambda c: c["columns"][0].update(scale=10), "the scale 10"),
        (lambda c: c["columns"][0].update(missing=-1), "missing is -1"),
        (lambda c: c["columns"][0].update(name=3), "name is 3"),
        (lambda c: c["columns"][1].update(levels="ab"), "the labels 'ab'"),
        (lambda c: c["columns"][1].update(levels=[1]), r"the labels \[1\]"),
        (lambda c: c["columns"][1].update(levels=["a", "a"]), "the same one twice"),
        (lambda c: c["columns"][1].update(levels=None), "not iterable"),
        (lambda c: c["columns"][1].update(other=1), "other is 1"),
        (lambda c: c["columns"][1].update(of="code"), "it holds 'code'"),
        (lambda c: c["target"].update(labels=["a"]), "has 1 class"),
        (lambda c: c["target"].update(kind="number"), "unknown kind 'number'"),
        (lambda c: c.update(left_out=[]), "no attribute 'items'"),
    ],
)
def test_plain_values_that_are_no_encoder(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"does not fit together: .*{message}"):
        Encoder.from_config(broken(change))


def test_the_marks_of_missing_values_are_what_the_reader_takes(tmp_path: Path) -> None:
    for mark in MISSING:
        assert read(csv(tmp_path, f"a,b\n{mark},1\n2,2\n"))["a"].to_list() == [None, 2]
    assert tables.MAX_LEVELS == 100
