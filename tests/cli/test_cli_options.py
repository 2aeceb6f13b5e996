"""Options of ``train`` beyond the usual ones: what is watched, what counts, how a file is read, and learning on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pl = pytest.importorskip("polars")

import dense_xp  # noqa: E402
from dense_xp import cli  # noqa: E402
from dense_xp.tables import Encoder  # noqa: E402
from dense_xp.tables.leaks import leaks  # noqa: E402
from tests.cli.test_cli_tables import refused, shop  # noqa: E402

TRAIN = ["train", "shop.csv", "--target", "left", "--save", "m", "--hidden", "16"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.train, "optional", lambda *_: None)
    shop().write_csv("shop.csv")
    return tmp_path


def run(*arguments: str) -> None:
    assert cli.main(arguments) == 0


def extra(path: str = "m") -> Any:
    return dense_xp.describe(path)["extra"]


def test_the_measure_that_is_watched_chooses_the_epoch(folder: Path) -> None:
    run(*TRAIN, "--epochs", "20", "--patience", "100", "--metric", "auc")
    history = dense_xp.describe("m")["history"]
    assert history.best_epoch == 1 + int(np.argmax(history["val_auc"]))
    run(*TRAIN, "--epochs", "20", "--patience", "100", "--metric", "accuracy")
    history = dense_xp.describe("m")["history"]
    assert history.best_epoch == 1 + int(np.argmax(history["val_accuracy"]))


def test_classes_count_as_is_said(folder: Path) -> None:
    def share(*options: str) -> float:
        run(*TRAIN, "--drop", "bill,age", "--epochs", "15", "--quiet", *options)
        run("predict", "m", "shop.csv", "--output", "p.csv")
        return float((pl.read_csv("p.csv")["left"] == "yes").mean())

    assert share("--class-weight", "yes=20") > share() > share("--class-weight", "no=20,yes=1")
    shop().filter((pl.col("left") == "yes") | (pl.int_range(pl.len()) % 5 == 0)).write_csv("shop.csv")
    assert share("--class-weight", "balanced") < share()
    assert extra()["training"]["class_weight"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class-weight", "yas=2"], "'yas=2': write label=weight, with one of no, yes"),
        (["--class-weight", "yes"], "'yes': write label=weight"),
        (["--class-weight", "yes=-1"], "is not a number from 0 on"),
        (["--target", "bill", "--class-weight", "balanced"], "--class-weight is for classes, and bill is a number"),
        (["--metric", "acc"], "unknown metric 'acc'"),
        (["--encoding", "utf-88"], "'utf-88' is no encoding"),
        (["--max-levels", "0"], "is not a whole number from 1 on"),
        (["--resume", "none"], "none"),
    ],
)
def test_options_that_cannot_be_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert message in refused(capsys, *TRAIN, *options)
    assert not (folder / "m").exists()


def test_a_file_in_another_encoding(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = shop().with_columns(pl.col("city").replace({"Zug": "Zürich"}))
    for encoding in ("latin-1", "utf-16", "cp1252"):
        (folder / "other.csv").write_bytes(table.write_csv().encode(encoding))
        assert "say --encoding" in refused(capsys, "train", "other.csv", "--target", "left", "--save", "m")
        how = ["--encoding", encoding]
        run("train", "other.csv", "--target", "left", "--save", "m", "--epochs", "1", *how)
        assert "Zürich" in json.dumps(extra(), ensure_ascii=False)
        capsys.readouterr()
        run("predict", "m", "other.csv", "--output", "p.csv", *how)
        run("evaluate", "m", "other.csv", *how)
        assert "new values" not in capsys.readouterr().err
    assert "other.csv is not text in ascii" in refused(capsys, "evaluate", "m", "other.csv", "--encoding", "ascii")


def test_the_most_frequent_values_have_a_feature(folder: Path) -> None:
    run(*TRAIN, "--epochs", "1", "--max-levels", "1", "--category", "city")
    (city,) = (column for column in extra()["table"]["columns"] if column["name"] == "city")
    assert len(city["levels"]) == 1
    assert city["other"]


def test_learning_on_is_learning_in_one_go(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Same rows, same seed, the optimizer's state and the log go on; only the order of the samples is drawn anew."""
    run(*TRAIN, "--epochs", "6", "--log", "log.csv", "--metric", "auc", "--optimizer", "adagrad", "--seed", "3")
    before, first = extra(), dense_xp.describe("m")["history"]
    capsys.readouterr()
    run("train", "shop.csv", "--resume", "m", "--save", "n", "--epochs", "4", "--log", "log.csv")
    out = capsys.readouterr().out
    assert re.search(r"^training +adagrad, batches of 32, at most 4 epochs$", out, re.M)
    assert re.search(r"^rows +192 to learn from, 48 held out \(seed 3", out, re.M)
    history = dense_xp.describe("n")["history"]
    assert history.epochs == 10
    for name, column in first.items():
        assert history[name][:6] == column
    assert extra("n") == before
    assert len((folder / "log.csv").read_text().splitlines()) == 11
    assert min(history["loss"][6:]) < min(first["loss"])
    run("train", "shop.csv", "--resume", "n", "--save", "n", "--epochs", "1", "--quiet")  # over itself
    assert dense_xp.describe("n")["history"].epochs == 11


@pytest.mark.parametrize("option", [["--hidden", "8"], ["--drop", "age"], ["--seed", "1"], ["--target", "left"]])
def test_what_a_model_has_already_is_not_asked_again(
    folder: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    run(*TRAIN, "--epochs", "1", "--quiet")
    line = refused(capsys, "train", "shop.csv", "--resume", "m", "--save", "n", *option)
    assert f"{option[0]} is what m has already: leave {option[0]} or --resume out" in line


def test_advice_of_more_epochs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(*TRAIN, "--epochs", "2")
    assert "advice      the last epoch was the best one: more may help, with --epochs" in capsys.readouterr().out


# ------------------------------------------------------------------ columns that tell too much


def leaking(n: int = 300) -> Any:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(n)
    group = rng.choice(["a", "b", "c"], n)
    return pl.DataFrame(
        {
            "x": x,
            "noise": rng.standard_normal(n),
            "group": group,
            "kind": np.where(x + rng.standard_normal(n) > 0, "yes", "no"),
            "price": 10 * x + 4 * rng.standard_normal(n),
        }
    )


@pytest.mark.parametrize(
    ("target", "copy", "found"),
    [
        ("kind", pl.lit(0.0), []),
        ("price", pl.lit(0.0), []),
        ("kind", pl.when(pl.col("kind") == "yes").then(2.5).otherwise(1.0), ["copy"]),
        ("kind", pl.col("kind").replace({"yes": "paid", "no": "open"}), ["copy"]),
        ("price", 1000 - 3 * pl.col("price"), ["copy"]),
        ("price", pl.col("price") ** 3, ["copy"]),
        ("price", pl.when(pl.col("price") > 0).then(pl.lit("dear")).otherwise(pl.lit("cheap")), []),
    ],
)
def test_a_column_that_alone_explains_the_target_is_told(target: str, copy: Any, found: list[str]) -> None:
    table = leaking().with_columns(copy.alias("copy"))
    drop = {"kind": ["price"], "price": ["kind"]}[target]
    encoder = Encoder.fit(table, target, drop=drop)
    lines = leaks(encoder, encoder.encode(table), encoder.encode_target(table))
    assert [line.split()[0] for line in lines] == found
    assert all("if it is known only afterwards, leave it out with --drop" in line for line in lines)
    few = table[:50]
    assert leaks(encoder, encoder.encode(few), encoder.encode_target(few)) == []


def test_a_training_warns_of_a_leak(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leaking().with_columns(copy=pl.col("kind")).write_csv("leak.csv")
    run("train", "leak.csv", "--target", "kind", "--save", "m", "--epochs", "1")
    assert re.search(
        r"^leak\? +copy alone tells 100.0% of what is to be learned about kind", capsys.readouterr().out, re.M
    )
