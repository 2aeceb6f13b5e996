"""Tables that nobody would write: each is read, or refused by a TableError, within two seconds.

``DENSE_XP_FUZZ=100000`` before the command runs so many of each kind.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

pl = pytest.importorskip("polars")

from dense_xp.tables import (  # noqa: E402
    Classes,
    Encoder,
    files,
    make_target,
    rows_with_target,
    split,
)
from dense_xp.tables.errors import TableError  # noqa: E402
from dense_xp.tables.files import read_table, write  # noqa: E402

FUZZED = settings(
    max_examples=int(os.environ.get("DENSE_XP_FUZZ", "1500")),
    deadline=timedelta(seconds=2),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

PIECES = st.sampled_from(
    [",", ";", "\t", "|", '"', '""', "\n", "\r\n", "\r", " ", "a", "b", "A", "é", "\u00a0", "\x1b[31m", "x,y",
     "-", "--", "NA", "nan", "?", "true", "False", "1", "0", "-1", "1.0", "007", "1,234", "1.234", "12,5", "$5", "5%",
     "(3)", "1e5", "1e308", "-1e308", "1e-320", "inf", "9" * 19, "9" * 30, "2024-02-29", "6/28/2022", "1:19 PM",
     "٣", "\ufeff", "sep=;", "P(a)", "id", "Mar 14, 2021", "\x85", "\u2028", "💥", "−5", "1'234", "' '",
     "0x1F", "1_000", "."]
)  # fmt: skip
BEGINNINGS = st.sampled_from([b"", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"x\x01", b"x\x9c", b"x\xda", b"PAR1", b"PK"])
CELLS = st.lists(PIECES, max_size=3).map("".join)
SEPARATORS = st.sampled_from([",", ";", "\t", "|"])


@st.composite
def tables(draw: Any) -> str:
    """Rows alike but for some, with cells from columns that mean something."""
    separator, end = draw(SEPARATORS), draw(st.sampled_from(["\n", "\r\n", "\r"]))
    kinds = draw(st.lists(st.lists(CELLS, min_size=1, max_size=4), min_size=1, max_size=5))
    height = draw(st.integers(0, 30))
    rows = [draw(st.lists(CELLS, min_size=len(kinds), max_size=len(kinds)))]
    rows += [[draw(st.sampled_from(kind)) for kind in kinds] for _ in range(height)]
    if height and draw(st.booleans()):
        rows[draw(st.integers(0, height))] = draw(st.lists(CELLS, max_size=6))
    quoted = draw(st.booleans())
    cells = [['"' + cell.replace('"', '""') + '"' if quoted else cell for cell in row] for row in rows]
    return draw(st.sampled_from(["", "\ufeff", "sep=" + separator + end])) + end.join(map(separator.join, cells))


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "missing": st.lists(st.sampled_from(["-1", "--", "a", "1e308", "", "nan", "-999", "."]), max_size=2),
        "values": st.lists(st.sampled_from(["NA", "nan", "", "zzz"]), max_size=2),
        "decimals": st.sampled_from([".", ",", {"a": ","}]),
        "texts": st.lists(st.sampled_from(["a", "b", ""]), max_size=2),
    },
)


def used(path: Path, which: int, options: dict[str, Any]) -> None:
    """Read a table, learn from it and bring it back, as the command line does; TableError is an answer too."""
    with warnings.catch_warnings(), contextlib.suppress(TableError):
        warnings.simplefilter("error")
        frame = read_table(str(path), **options).frame
        name = frame.columns[which % frame.width]
        kept = read_table(str(path), keep=frame.columns, **options).repeated(frame.columns)
        assert (kept.height, kept.columns) == (frame.height, frame.columns)
        frame = frame.filter(rows_with_target(frame, name))
        target = make_target(frame[name])
        codes = target.encode(frame[name])
        rows, _ = split(frame.height, 0.2, 0, codes if isinstance(target, Classes) else None)
        encoder = Encoder.fit(frame[rows], target)
        assert Encoder.from_config(encoder.get_config()) == encoder
        X = encoder.encode(frame)
        assert X.shape == (frame.height, len(encoder.features))
        assert np.isfinite(encoder.encode(frame[rows])).all()
        back = encoder.decode(np.eye(frame.height, target.n_outputs, dtype="float32"))
        assert back.height == frame.height
        assert not any(column.is_null().any() for column in back)
        encoder.notes(frame)
        encoder.report()
        write(back, str(path.with_name("out.csv")))


@FUZZED
@given(text=st.one_of(tables(), st.lists(PIECES, max_size=40).map("".join)), which=st.integers(0, 9), options=OPTIONS)
def test_texts_of_all_kinds(tmp_path: Path, text: str, which: int, options: dict[str, Any]) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode())
    used(path, which, options)


@FUZZED
@given(
    data=st.tuples(BEGINNINGS, st.binary(max_size=200)).map(b"".join),
    which=st.integers(0, 9),
    ending=st.sampled_from([".csv", ".parquet", ".npz", ".csv.gz"]),
)
def test_bytes_of_all_kinds(tmp_path: Path, data: bytes, which: int, ending: str) -> None:
    path = tmp_path / f"table{ending}"
    path.write_bytes(data)
    used(path, which, {})


def _parquet(file: Any) -> None:
    rng = np.random.default_rng(0)
    columns = {"x": rng.normal(size=40), "k": rng.choice(["a", "b"], 40), "y": rng.integers(0, 3, 40), "t": [[1]] * 40}
    pl.DataFrame(columns).write_parquet(file)


def _zipped(save: Callable[..., Any]) -> Callable[[Any], None]:
    rng = np.random.default_rng(0)
    return lambda file: save(file, X=rng.normal(size=(30, 2)), y=rng.integers(0, 2, 30), z=np.arange(3))


WHOLE: dict[str, list[bytes]] = {}
for _ending, _writers in {
    ".parquet": [_parquet],
    ".npz": [_zipped(np.savez), _zipped(np.savez_compressed)],
    ".csv.gz": [lambda file: file.write(gzip.compress(b"a,b,y\n" + b"1.5,x,0\n2,y,1\n" * 30, mtime=0))],
}.items():
    for _writer in _writers:
        _file = io.BytesIO()
        _writer(_file)
        WHOLE.setdefault(_ending, []).append(_file.getvalue())


@FUZZED
@given(data=st.data(), ending=st.sampled_from(sorted(WHOLE)), which=st.integers(0, 9))
def test_files_that_are_damaged(tmp_path: Path, data: Any, ending: str, which: int) -> None:
    whole = bytearray(data.draw(st.sampled_from(WHOLE[ending])))
    parquet = ending == ".parquet"  # each that is not cut off takes a process of its own: see below
    for _ in range(0 if parquet else data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    if parquet or data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole) - parquet)) :]
    path = tmp_path / f"table{ending}"
    path.write_bytes(whole)
    used(path, which, {})


def flipped(seed: int) -> bytes:
    """Return a Parquet file with a few bytes that are others."""
    rng, whole = random.Random(seed), bytearray(WHOLE[".parquet"][0])
    for _ in range(rng.randrange(1, 5)):
        whole[rng.randrange(4, len(whole) - 4)] = rng.randrange(256)
    return bytes(whole)


@pytest.mark.parametrize("seed", range(6))
def test_parquet_files_with_other_bytes(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "table.parquet"
    path.write_bytes(flipped(seed))
    used(path, seed, {})


def test_what_ends_the_process_of_polars_does_not_end_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.parquet"
    path.write_bytes(WHOLE[".parquet"][0])
    assert read_table(str(path)).frame.height == 40
    monkeypatch.setattr(files, "_READS", "import os; os.abort()")
    with pytest.raises(TableError, match="damaged so that polars ends the process"):
        read_table(str(path))
    assert read_table(str(path), unlimited=True).frame.height == 40
