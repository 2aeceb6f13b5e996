"""``train --stream``: a table that is read piece by piece teaches what it teaches as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pl = pytest.importorskip("polars")
parquet = pytest.importorskip("pyarrow.parquet")

import dense_xp  # noqa: E402
from dense_xp import cli  # noqa: E402
from dense_xp.tables import Encoder, split  # noqa: E402
from dense_xp.tables.parquet import EncodedRows, ParquetTable  # noqa: E402
from tests.cli.test_cli_tables import shop  # noqa: E402

QUICK = ["--epochs", "3", "--hidden", "8", "--batch-size", "16"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.train, "optional", lambda *_: None)  # not what is said once after an installation
    table = shop()
    table.write_parquet("shop.parquet")
    (tmp_path / "parts").mkdir()
    for name, rows in (("0", slice(0, 100)), ("1", slice(100, None))):
        parquet.write_table(table[rows].to_arrow(), f"parts/{name}.parquet", row_group_size=31)
    return tmp_path


@pytest.mark.parametrize("target", ["left", "bill"])
@pytest.mark.parametrize("validation", ["0.2", "0"])
def test_the_same_is_learned_from_the_columns(
    folder: Path, capsys: pytest.CaptureFixture[str], target: str, validation: str
) -> None:
    common = ["--target", target, *QUICK, "--missing", "Zug", "--validation", validation]
    printed: list[list[str]] = []
    extras: list[Any] = []
    for data, more in (("shop.parquet", []), ("shop.parquet", ["--stream"]), ("parts", [])):
        assert cli.main(["train", data, *common, *more, "--save", "m"]) == 0
        printed.append(capsys.readouterr().out.splitlines())
        extras.append(dense_xp.describe("m")["extra"])
    assert extras[0] == extras[1] == extras[2]

    def reported(lines: list[str]) -> list[str]:
        """Leave out the name of the data, and what was measured: the order of the rows is another one."""
        return [
            line for line in lines[1:] if not line.startswith(("epochs", "held out    a", "held out    R", "saved"))
        ]

    assert reported(printed[1])[:-1] == reported(printed[0])[:-1]
    assert reported(printed[2])[:-1] == reported(printed[0])[:-1]


def test_what_is_streamed_is_what_the_encoder_makes_of_the_whole(folder: Path) -> None:
    table, whole = ParquetTable("parts"), pl.read_parquet("shop.parquet")
    assert (table.height, table.width, table.columns) == (whole.height, whole.width, whole.columns)
    known = pl.Series(np.arange(240) % 7 > 0)
    learn, out = split(int(known.sum()), 0.3, 0)
    for rows in (learn, out):
        part, frame = table.filter(known).only(rows), whole.filter(known)[rows]
        assert part.height == frame.height
        encoder = Encoder.fit(part, "left")
        assert encoder == Encoder.fit(frame, "left")
        assert encoder.notes(part) == encoder.notes(frame)
        source = EncodedRows(part, encoder)
        parts = list(source.read_pieces(range(source.n_pieces)))
        assert len(parts) == source.n_pieces == 4 + 5
        assert np.array_equal(np.concatenate([X for X, _, _ in parts]), encoder.encode(frame))
        assert np.array_equal(np.concatenate([y for _, y, _ in parts]), encoder.encode_target(frame))


def test_only_parquet_is_streamed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop().write_csv("shop.csv")
    assert cli.main(["train", "shop.csv", "--stream", "--target", "left", "--save", "m"]) == 2
    assert "--stream reads Parquet" in capsys.readouterr().err
    assert not (folder / "m").exists()


def test_a_model_of_streamed_rows_predicts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = ["--epochs", "30", "--hidden", "16", "--learning-rate", "0.01"]
    assert cli.main(["train", "parts", "--target", "left", *long, "--save", "m", "--quiet"]) == 0
    assert cli.main(["predict", "m", "shop.parquet", "--output", "out.csv"]) == 0
    predicted = pl.read_csv("out.csv")["left"]
    assert (predicted == shop()["left"]).mean() > 0.9
