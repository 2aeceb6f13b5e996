"""The commands that work on tables, as a user runs them: real files, and what is printed and written."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pl = pytest.importorskip("polars")

import dense_xp  # noqa: E402
from dense_xp import cli  # noqa: E402
from dense_xp.backend import Backend  # noqa: E402
from dense_xp.tables import Encoder, split  # noqa: E402

QUICK = ["--epochs", "30", "--hidden", "16", "--learning-rate", "0.01"]


COMPILING = "dense-xp: compiling the loops first, once after an installation: some seconds\n"

TRAIN = ["train", "shop.csv", "--target", "left", "--save", "m"]


def shop(n: int = 240) -> Any:
    """Customers, of whom the old ones and those of Bern leave."""
    rng = np.random.default_rng(0)
    age = rng.integers(18, 80, n)
    city = rng.choice(["Basel", "Bern", "Zug"], n)
    left = (age + np.where(city == "Bern", 20, 0)) > 55
    age_known = [None if i % 20 == 7 else int(a) for i, a in enumerate(age)]
    return pl.DataFrame(
        {
            "id": 1000 + 7 * np.arange(n),
            "age": age_known,
            "city": city,
            "member": rng.random(n) < 0.5,
            "since": [f"20{y}-03-01" for y in rng.integers(10, 24, n)],
            "empty": [""] * n,
            "left": np.where(left, "yes", "no"),
            "bill": np.round(1000 + 30.0 * age + np.where(city == "Zug", 400, 0), 2),
        }
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.train, "optional", lambda *_: None)  # not what is said once after an installation
    shop().write_csv("shop.csv")
    return tmp_path


def run(*arguments: str) -> None:
    assert cli.main(arguments) == 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line on standard error."""
    capsys.readouterr()
    try:
        status: Any = cli.main(arguments)
    except SystemExit as error:  # from the parser
        status = error.code
    assert status == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("dense-xp")
    return lines[0]


def test_from_a_table_to_classes(folder: Path, capsys: pytest.CaptureFixture[str], backend: Backend) -> None:
    """Trained on every backend; the files of one are read by all, and say the same."""
    where = ["--backend", backend.name]
    drop = ["--drop", "bill"]
    run("train", "shop.csv", "--target", "left", "--save", "left.safetensors", *drop, *QUICK, *where)
    out = capsys.readouterr().out
    assert re.search(r"^data +shop\.csv: 240 rows, 8 columns$", out, re.M)
    assert re.search(r"^target +left: classification \(texts; --task decides otherwise\)$", out, re.M)
    assert re.search(r"^ +(yes|no) \d+ \(\d\d\.\d%\), (yes|no) \d+ \(\d\d\.\d%\)$", out, re.M)
    assert re.search(r"^rows +192 to learn from, 48 held out \(seed 0, of each class its share\)$", out, re.M)
    assert re.search(
        r"^columns +age +number +mean [\d.]+, standard deviation [\d.]+; \d+ missing, taken as the", out, re.M
    )
    assert re.search(r"^ +city +category +3 values$", out, re.M)
    assert re.search(r"^ +id +left out +every value differs", out, re.M)
    assert re.search(r"^ +since +date +day, year, weekday, day of year around 2016-", out, re.M)
    assert re.search(r"^ +empty +left out +no values$", out, re.M)
    assert re.search(r"^ +bill +left out +as asked for$", out, re.M)
    assert re.search(
        rf"^network .* 17 features → 16 relu → 2 classes: 322 parameters, float32 on {backend.name}", out, re.M
    )
    accuracy = re.search(r"^held out +accuracy (\d\.\d+), where the most frequent", out, re.M)
    assert accuracy
    assert float(accuracy[1]) > 0.85

    run("predict", "left.safetensors", "shop.csv", "--output", "out.csv", "--keep", "id", *where)
    run("predict", "left.safetensors", "shop.csv", "--output", "numpy.csv", "--keep", "id")
    table, again = pl.read_csv("out.csv"), pl.read_csv("numpy.csv")
    assert table.columns == ["id", "left", "P(no)", "P(yes)"]
    assert table["id"].to_list() == shop()["id"].to_list()
    np.testing.assert_allclose(table["P(no)"] + table["P(yes)"], 1.0, atol=1e-6)
    np.testing.assert_allclose(table["P(no)"], again["P(no)"], atol=1e-5)
    assert ((table["left"] == "yes") == (table["P(yes)"] > 0.5)).all()
    right = float((table["left"] == shop()["left"]).mean())
    assert right > 0.9

    capsys.readouterr()
    run("evaluate", "left.safetensors", "shop.csv", "--json", *where)
    report = json.loads(capsys.readouterr().out)
    assert report["rows"] == 240
    assert report["accuracy"] == pytest.approx(right)
    confusion = np.array(report["confusion"])
    assert confusion.sum() == 240
    yes = report["classes"]["yes"]
    assert yes["rows"] == confusion[1].sum() == (shop()["left"] == "yes").sum()
    assert yes["precision"] == pytest.approx(confusion[1, 1] / confusion[:, 1].sum())
    assert yes["recall"] == pytest.approx(confusion[1, 1] / confusion[1].sum())


def test_from_a_table_to_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("train", "shop.csv", "--target", "bill", "--save", "bill.safetensors", "--epochs", "100", "--hidden", "32")
    out = capsys.readouterr().out
    assert re.search(r"^target +bill: regression \(whole numbers with \d+ different values", out, re.M)
    assert re.search(r"^held out +R² 0\.9\d+, root mean square error", out, re.M)
    run("predict", "bill.safetensors", "shop.csv", "--output", "out.parquet")
    table = pl.read_parquet("out.parquet")
    assert table.columns == ["bill"]
    residuals = (table["bill"] - shop()["bill"]).to_numpy()
    capsys.readouterr()
    run("evaluate", "bill.safetensors", "shop.csv", "--json")
    report = json.loads(capsys.readouterr().out)
    assert report["rmse"] == pytest.approx(np.sqrt(np.mean(residuals**2)), rel=1e-4)
    assert report["mae"] == pytest.approx(np.mean(np.abs(residuals)), rel=1e-4)
    assert report["r2"] == pytest.approx(1 - np.mean(residuals**2) / np.var(shop()["bill"].to_numpy()), rel=1e-4)
    assert report["r2"] > 0.9
    run("evaluate", "bill.safetensors", "shop.csv")
    assert f"R² {report['r2']:.4f}, root mean square error {report['rmse']:.4g}" in capsys.readouterr().out


def test_the_file_is_one_that_load_reads(folder: Path) -> None:
    run("train", "shop.csv", "--target", "left", "--save", "left.safetensors", "--quiet", *QUICK)
    model = dense_xp.load("left.safetensors")
    about = dense_xp.describe("left.safetensors")
    encoder = Encoder.from_config(about["extra"]["table"])
    table = shop().with_columns(member=pl.col("member").cast(pl.String))
    predicted = encoder.decode(model.predict(encoder.encode(table)))
    run("predict", "left.safetensors", "shop.csv", "--output", "out.parquet")
    assert predicted.equals(pl.read_parquet("out.parquet"))
    assert about["history"].epochs <= 30
    settings = {"optimizer": "adam", "seed": 0, "validation": 0.2, "class_weight": [], "metric": None}
    assert about["extra"]["training"] == {"rows": 192, "held_out": 48, **settings}


def test_the_same_seed_gives_the_same_file(folder: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run("train", "shop.csv", "--target", "left", "--save", name, "--quiet", "--epochs", "2", "--seed", seed)
    one, two, other = (dense_xp.load(name).weights for name in "abc")
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])
    assert np.any(one["dense.W"] != other["dense.W"])


def test_early_stopping_brings_the_best_weights_back(folder: Path) -> None:
    """On a target that is noise the loss on the held-out rows soon rises."""
    rng = np.random.default_rng(0)
    pl.DataFrame({**{f"x{i}": rng.normal(size=80) for i in range(8)}, "y": rng.integers(0, 2, 80)}).write_csv(
        "noise.csv"
    )
    run("train", "noise.csv", "--target", "y", "--save", "m", "--quiet", "--patience", "3", "--learning-rate", "0.01")
    history = dense_xp.describe("m")["history"]
    assert history.epochs < 100
    assert history.best_epoch == 1 + int(np.argmin(history["val_loss"])) == history.epochs - 4
    run("train", "noise.csv", "--target", "y", "--save", "all", "--quiet", "--validation", "0", "--epochs", "30")
    history = dense_xp.describe("all")["history"]
    assert history.epochs == 30
    assert "val_loss" not in history


def test_all_options_reach_the_network(folder: Path) -> None:
    run("train", "shop.csv", "--target", "left", "--save", "m", "--quiet", "--epochs", "1", "--hidden", "8,4",
        "--activation", "tanh", "--normalization", "batch", "--dropout", "0.25", "--optimizer", "sgd",
        "--learning-rate", "0.5", "--weight-decay", "0.1", "--batch-size", "192", "--seed", "5", "--category", "id",
        "--drop", "bill,since", "--number", "age")  # fmt: skip
    model = dense_xp.load("m")
    kinds = ["Dense", "BatchNorm", "Tanh", "Dropout"] * 2 + ["Dense"]
    assert [type(layer).__name__ for layer in model.layers] == kinds
    assert [layer.n_units for layer in model.layers if isinstance(layer, dense_xp.Dense)] == [8, 4, 2]
    assert model.layers[3].rate == 0.25
    encoder = Encoder.from_config(dense_xp.describe("m")["extra"]["table"])
    assert [column.kind for column in encoder.columns] == ["category", "number", "category", "category"]
    assert model.input_shape == (len(encoder.features),)


def test_bins_encode_the_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("train", "shop.csv", "--target", "left", "--save", "m", "--epochs", "1", "--hidden", "8", "--bins", "6")
    out = capsys.readouterr().out
    model = dense_xp.load("m")
    encoding = model.layers[0]
    assert isinstance(encoding, dense_xp.PiecewiseLinear)
    assert max(map(len, encoding.edges)) == 7
    assert f"features → {encoding.output_shape()[0]} bins → 8 relu → 2 classes" in out
    if importlib.util.find_spec("ndonnx") is not None:
        run("export", "m", "m.onnx")
    run("evaluate", "m", "shop.csv")
    run("predict", "m", "shop.csv", "--output", "p.csv")


def test_options_of_the_training_are_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    fit = dense_xp.Sequential.fit

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.update(optimizer=self.optimizer, epochs=args[2], batch_size=args[3], rows=len(args[0]), **kwargs)
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(dense_xp.Sequential, "fit", watched)
    run("train", "shop.csv", "--target", "left", "--save", "m", "--quiet", "--epochs", "2", "--batch-size", "50",
        "--optimizer", "adamw", "--learning-rate", "0.5", "--weight-decay", "0.125", "--validation", "0.5")  # fmt: skip
    assert seen["optimizer"] == dense_xp.AdamW(0.5, weight_decay=0.125)
    assert (seen["epochs"], seen["batch_size"], seen["rows"], seen["verbose"]) == (2, 50, 120, False)
    run("train", "shop.csv", "--target", "left", "--save", "m", "--epochs", "1")
    assert seen["optimizer"] == dense_xp.Adam()
    assert seen["verbose"] is None


def test_a_log_and_a_curve(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    run("train", "shop.csv", "--target", "left", "--save", "m", "--epochs", "3", "--log", "log.csv", "--plot", "c.png")
    log = pl.read_csv("log.csv")
    history = dense_xp.describe("m")["history"]
    assert log["val_loss"].to_list() == history["val_loss"]
    assert Path("c.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert re.search(r"^log +log\.csv\ncurve +c\.png$", out, re.M)
    run("train", "shop.csv", "--target", "bill", "--save", "m", "--epochs", "1", "--plot", "c.svg", "--validation", "0")
    assert "<svg" in Path("c.svg").read_text(encoding="utf-8")


def test_quiet_says_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("train", "shop.csv", "--target", "left", "--save", "m", "--quiet", "--epochs", "1")
    assert capsys.readouterr() == ("", "")


def test_npz_needs_no_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = dense_xp.datasets.load_digits()
    np.savez("digits.npz", X=images[:600], y=labels[:600])
    np.savez("new.npz", X=images[600:700])
    run("train", "digits.npz", "--save", "m", "--epochs", "15", "--quiet")
    run("predict", "m", "new.npz", "--output", "out.npz")
    with np.load("out.npz") as out:
        assert (out["y"] == labels[600:700]).mean() > 0.85
        assert out["P(3)"].shape == (100,)


def test_of_many_columns_the_first_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    X = np.random.default_rng(0).normal(size=(60, 100))
    np.savez("wide.npz", X=X, y=X[:, 0])
    run("train", "wide.npz", "--save", "m", "--epochs", "1")
    out = capsys.readouterr().out
    assert re.search(r"^ +x39 +number .*\n +and 60 more columns\n", out, re.M)
    np.savez("gaps.npz", X=np.where(X > 0, np.nan, X))
    run("predict", "m", "gaps.npz")
    assert capsys.readouterr().err.endswith("dense-xp: and 60 more columns\n")


def test_predictions_are_written_to_standard_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("train", "shop.csv", "--target", "left", "--save", "m", "--quiet", "--epochs", "1")
    run("predict", "m", "shop.csv", "--keep", "city,id")
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "city,id,left,P(no),P(yes)"
    assert len(out.splitlines()) == 241
    assert re.fullmatch(r"dense-xp: age: no number in 12 rows, taken as the mean [\d.]+\n", err)


def test_another_table_is_understood_by_its_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other order, more columns, another separator, other marks: the same predictions."""
    table = shop().with_columns(age=pl.col("age").cast(pl.String).fill_null("-"))
    table.write_csv("train.csv")
    run("train", "train.csv", "--target", "left", "--save", "m", "--quiet", "--missing", "-", *QUICK)
    run("predict", "m", "train.csv", "--output", "one.csv")
    other = table.select("city", pl.lit("x").alias("more"), "bill", "since", "age", "member", "id")
    other.write_csv("other.csv", separator=";")
    run("predict", "m", "other.csv", "--output", "two.csv")
    assert Path("one.csv").read_bytes() == Path("two.csv").read_bytes()
    capsys.readouterr()
    other.with_columns(city=pl.lit("Genf")).write_csv("new.csv")
    run("predict", "m", "new.csv", "--output", "three.csv")
    assert "city: new values, such as 'Genf', in 240 rows, taken as none of the known ones" in capsys.readouterr().err
    other.drop("age", "city").write_csv("less.csv")
    assert "no column 'age', which the model needs. There are: more, bill, since, member, id" in refused(
        capsys, "predict", "m", "less.csv"
    )
    other.with_columns(age=pl.lit("old")).write_csv("wrong.csv")
    assert "age holds 'old', and must hold numbers" in refused(capsys, "predict", "m", "wrong.csv")
    assert "no column 'left', which the model predicts" in refused(capsys, "evaluate", "m", "other.csv")


@pytest.mark.parametrize("codes", [["005", "015", "025"], ["1.50", "2.50", "x"]], ids=str)
def test_codes_stay_what_they_are(folder: Path, codes: list[str]) -> None:
    """Also where all those of a new table look like numbers."""
    pl.DataFrame({"code": codes * 30, "y": [0, 1, 2] * 30}).write_csv("codes.csv")
    run("train", "codes.csv", "--target", "y", "--save", "m", "--quiet", "--epochs", "60", "--learning-rate", "0.03")
    pl.DataFrame({"code": [codes[1], codes[0]]}).write_csv("new.csv")
    run("predict", "m", "new.csv", "--output", "out.csv")
    assert pl.read_csv("out.csv")["y"].to_list() == [1, 0]


def test_what_is_held_out_is_not_looked_at(folder: Path) -> None:
    """Mean and scale, of columns and of the target, are those of the other rows."""
    run("train", "shop.csv", "--target", "bill", "--save", "m", "--quiet", "--epochs", "1", "--seed", "3")
    encoder = Encoder.from_config(dense_xp.describe("m")["extra"]["table"])
    rows = shop()[split(240, 0.2, 3)[0]]
    age, bill = rows["age"], rows["bill"]
    assert encoder.columns[0].mean == pytest.approx(age.mean(), rel=1e-12)
    assert encoder.columns[0].scale == pytest.approx(age.std(ddof=0), rel=1e-12)
    assert encoder.columns[0].missing == age.null_count()
    assert encoder.target.mean == pytest.approx(bill.mean(), rel=1e-12)
    assert encoder.target.scale == pytest.approx(bill.std(ddof=0), rel=1e-12)


def test_summary_shows_the_network_and_the_columns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("train", "shop.csv", "--target", "left", "--save", "m", "--quiet", "--epochs", "2")
    run("summary", "m")
    out = capsys.readouterr().out
    assert re.search(r"^dense \(Dense, ReLU\) +\(…, 128\) +", out, re.M)
    assert re.search(r"^target +left: no, yes$", out, re.M)
    assert re.search(r"^ +city +category +3 values$", out, re.M)
    assert re.search(r"^training +rows: 192\n +held_out: 48\n +optimizer: adam\n +seed: 0$", out, re.M)
    assert re.search(r"^epochs +2 in \d+\.\d s; kept: the weights of epoch \d$", out, re.M)
    assert re.search(r"^measured +loss \d\S+, accuracy \d\S+, val_loss \d\S+, val_accuracy \d\S+$", out, re.M)
    layer = dense_xp.Dense(3, (2,), rng=0)
    layer.initialize()
    dense_xp.save(layer, "layer")
    run("summary", "layer")
    assert "9 parameters, float32 on numpy" in capsys.readouterr().out


def test_the_first_training_says_that_it_compiles(folder: Path) -> None:
    pytest.importorskip("numba")
    root = str(Path(dense_xp.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root, "NUMBA_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "-m", "dense_xp", *TRAIN, "--epochs", "1", "--hidden", "4"]
    for said in (COMPILING, ""):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.stderr == said
        assert "saved " in done.stdout


def test_ctrl_c_saves_what_was_learned(folder: Path) -> None:
    command = [sys.executable, "-m", "dense_xp", "train", "shop.csv", "--target", "left", "--save", "m",
               "--log", "log.csv", "--epochs", "1000000", "--patience", "1000000"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(dense_xp.__file__).parent.parent)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        _wait_for(process, Path("log.csv"))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err in ("", COMPILING)
    assert re.search(r"^epochs +\d+ of 1,000,000 in .*; interrupted; kept: the weights of epoch \d+$", out, re.M)
    assert dense_xp.load("m").input_shape == (18,)
    assert dense_xp.describe("m")["history"].stopped == "interrupted"
    run("predict", "m", "shop.csv", "--output", "out.csv")


def _wait_for(process: Any, log: Path) -> None:
    """Wait until some epochs are over."""
    for _ in range(1200):
        if log.exists() and len(log.read_text(encoding="utf-8").splitlines()) > 3:
            return
        assert process.poll() is None
        time.sleep(0.1)
    raise AssertionError("the training did not start")


@pytest.mark.parametrize("name", ["shop.csv", "shop.parquet", "shop.npz"])
def test_rows_without_a_target_are_left_out(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    target = [] if name.endswith("npz") else ["--target", "age"]
    shop().write_parquet("shop.parquet")
    age = shop()["age"].cast(pl.Float64).to_numpy()
    np.savez("shop.npz", X=np.stack([np.arange(240) % 7, shop()["bill"]], axis=1), y=np.where(age == 20, np.inf, age))
    run("train", name, *target, "--save", "m", *QUICK)
    out = capsys.readouterr().out
    absent = 12 + (int((age == 20).sum()) if name.endswith("npz") else 0)
    assert f"{absent} rows without {'y' if name.endswith('npz') else 'age'}, the target: left out" in out
    assert f"{round(0.2 * (240 - absent))} held out" in out
    run("evaluate", "m", name, "--json")
    out, err = capsys.readouterr()
    assert json.loads(out)["rows"] == 240 - absent
    assert f"{absent} rows without" in err


def test_the_row_of_a_class_that_the_model_does_not_know(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(*TRAIN, *QUICK)
    left = shop()["left"].to_list()
    shop().with_columns(left=pl.Series([None, None, "perhaps", *left[3:]])).write_csv("test.csv")
    assert "left is 'perhaps' in row 3, and the model knows" in refused(capsys, "evaluate", "m", "test.csv")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("target", ["left", "bill"])
def test_a_row_far_out_has_no_prediction(folder: Path, capsys: pytest.CaptureFixture[str], target: str) -> None:
    run("train", "shop.csv", "--target", target, "--save", "m", "--quiet", "--drop", "id", *QUICK)
    shop().with_columns(age=pl.Series([20.0, 1e60, *[30.0] * 238])).write_csv("far.csv")
    for name in ("out.csv", "out.parquet", "out.npz"):
        run("predict", "m", "far.csv", "--output", name)
        assert "no prediction for 1 row, first for row 2: the numbers are too far" in capsys.readouterr().err
    for out in (pl.read_csv("out.csv"), pl.read_parquet("out.parquet")):
        assert set(out[1].row(0)) == {None}
        assert out.null_count().row(0) == (1,) * out.width
    with np.load("out.npz", allow_pickle=False) as archive:
        assert archive[target][1] == "" if target == "left" else np.isnan(archive[target][1])
    assert "no prediction for 1 row" in refused(capsys, "evaluate", "m", "far.csv")


def test_ctrl_c_before_the_first_epoch_is_over(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(dense_xp.Sequential, "fit", interrupted)
    assert cli.main(TRAIN) == 130
    assert capsys.readouterr().err == "dense-xp: interrupted before the first epoch was over: nothing is saved\n"
    assert not Path("m").exists()
    monkeypatch.setattr(pl, "read_csv", interrupted)
    assert cli.main(TRAIN) == 130
    assert capsys.readouterr().err == "dense-xp: interrupted\n"


def test_a_training_that_diverges(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rate = ["--optimizer", "sgd", "--learning-rate"]
    error = refused(capsys, "train", "shop.csv", "--target", "bill", "--save", "m", *rate, "1e30")
    assert "the loss became" in error
    assert not Path("m").exists()


def test_weights_before_a_divergence_are_saved(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rate is chosen so that some epochs pass before the numbers are too large."""
    arguments = ["train", "shop.csv", "--target", "bill", "--save", "m", "--batch-size", "192", "--hidden", "none",
                 "--optimizer", "sgd", "--learning-rate", "30", "--patience", "99", "--quiet"]  # fmt: skip
    assert "m has the last good ones" in refused(capsys, *arguments)
    history = dense_xp.describe("m")["history"]
    assert history.stopped == "the loss was no longer finite"
    assert history.epochs >= 2
    assert all(np.isfinite(value).all() for value in dense_xp.load("m").weights.values())


def test_export(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ndonnx")
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    for target in ("left", "bill"):
        run("train", "shop.csv", "--target", target, "--save", "m", "--quiet", *QUICK)
        run("export", "m", "m.onnx", "--encoded")
        assert "encoded features, and not the columns" in capsys.readouterr().out
        about = {entry.key: entry.value for entry in onnx.load("m.onnx").metadata_props}
        encoder = Encoder.from_config(json.loads(about["dense_xp.table"]))
        assert json.loads(about["dense_xp.features"]) == encoder.features
        table = shop().with_columns(member=pl.col("member").cast(pl.String))
        (Y,) = runtime.InferenceSession("m.onnx").run(None, {"X": encoder.encode(table)})
        run("predict", "m", "shop.csv", "--output", "out.parquet")
        wanted = pl.read_parquet("out.parquet")
        wanted = wanted.select("P(no)", "P(yes)") if target == "left" else wanted
        np.testing.assert_allclose(Y, wanted.to_numpy(), rtol=1e-5, atol=1e-6)


def test_export_of_the_way_from_the_columns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The cells of the file as they stand there, and the numbers among them as numbers, are what the graph takes."""
    pytest.importorskip("ndonnx")
    runtime = pytest.importorskip("onnxruntime")
    cells = pl.read_csv("shop.csv", infer_schema=False).with_columns(pl.col("age").fill_null("-999"))
    cells.write_csv("shop.csv")
    days = cells["since"].str.to_date().cast(pl.Int32).cast(pl.Float64)
    inputs = {"age": cells["age"].cast(pl.Float64), "since": days, "city": cells["city"], "member": cells["member"]}
    for target in ("left", "bill"):
        run("train", "shop.csv", "--target", target, "--save", "m", "--quiet", "--missing", "-999", *QUICK)
        run("export", "m", "m.onnx")
        out = capsys.readouterr().out
        assert re.search(r"^inputs +age +double, NaN where it is missing$", out, re.M)
        assert re.search(r"^ +since +double, days since 1970$", out, re.M)
        assert re.search(r"^ +member +string, empty where it is missing$", out, re.M)
        assert ("left, as text" in out) == (target == "left")
        run("predict", "m", "shop.csv", "--output", "out.parquet")
        wanted = pl.read_parquet("out.parquet")
        session = runtime.InferenceSession("m.onnx")
        known = inputs | {"left": cells["left"], "bill": cells["bill"].cast(pl.Float64)}
        Y = session.run(None, {i.name: known[i.name].to_numpy()[:, None] for i in session.get_inputs()})
        assert target != "left" or Y[0].tolist() == wanted["left"].to_list()
        values = wanted.drop("left").to_numpy() if target == "left" else wanted.to_numpy()
        np.testing.assert_allclose(Y[-1], values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "shap.csv", "--target", "left", "--save", "m"], "no file 'shap.csv'; did you mean 'shop.csv'?"),
        (["train", "shop.csv", "--save", "m"], "--target names the column that is predicted. There are: id, age"),
        (["train", "shop.csv", "--target", "lft", "--save", "m"], "no column 'lft', the target; did you mean 'left'?"),
        (["train", "shop.csv", "--target", "empty", "--save", "m"], "the target empty is missing in every row"),
        ([*TRAIN, "--drop", "left"], "left is the target, and --drop"),
        (
            [*TRAIN, "--drop", "ciy"],
            "no column 'ciy'; did you mean 'city'",
        ),
        (
            [*TRAIN, "--task", "regression"],
            "left holds 'yes', and must",
        ),
        (
            ["train", "shop.csv", "--target", "left", "--save", "no/m"],
            "no/m cannot be written: there is no folder 'no'",
        ),
        (["train", "shop.csv", "--target", "left", "--save", "."], ". cannot be written: it is a folder"),
        (["train", "shop.csv", "--target", "left"], "required: --save"),
        ([*TRAIN, "--activation", "rellu"], "did you mean 'relu'"),
        ([*TRAIN, "--optimizer", "adm"], "did you mean 'adam'"),
        (
            [*TRAIN, "--hidden", "8,-1"],
            "'-1' is not a whole number from 1",
        ),
        ([*TRAIN, "--dropout", "1"], "'1' is not a number from 0 on"),
        (
            [*TRAIN, "--validation", "nan"],
            "'nan' is not a number from 0",
        ),
        ([*TRAIN, "--learning-rate", "inf"], "'inf' is not a number"),
        ([*TRAIN, "--task", "guess"], "invalid choice: 'guess'"),
        (
            [*TRAIN, "--plot", "c.doc"],
            "c.doc: the ending must be one of",
        ),
        ([*TRAIN, "--backend", "nmpy"], "did you mean 'numpy'"),
        (["predict", "none", "shop.csv"], "none: No such file or directory"),
        (["predict", "shop.csv", "shop.csv"], "shop.csv is no model, or is damaged"),
        (["predict", "bare", "shop.csv"], "without the columns that it was trained on"),
        (["predict", "m", "shop.csv", "--output", "out.xlsx"], "out.xlsx: the ending must be"),
        (["predict", "m", "shop.csv", "--keep", "nme"], "no column 'nme'"),
        (["evaluate", "m", "empty.csv"], "empty.csv is empty"),
        (["summary", "rogue"], "rogue does not fit together: its description of a table"),
        (["summary", "other"], "other does not fit together: its table is for a model with"),
        (["summary", "marks"], "marks does not fit together: its marks of missing values"),
        (["summary", "values"], "values does not fit together: its marks of missing values are 'NA'"),
        (["summary", "signs"], "signs does not fit together: its decimal signs are"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_line_and_status_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    pytest.importorskip("matplotlib")
    Path("empty.csv").touch()
    model = dense_xp.Sequential([dense_xp.Dense(2)], input_shape=(1,), rng=0)
    model.initialize()
    table = Encoder.fit(shop().select("bill", "left"), "left").get_config()
    wide = Encoder.fit(shop().select("bill", "age", "left"), "left").get_config()
    for name, extra in (
        ("m", {"table": table, "missing": []}),
        ("bare", None),
        ("rogue", {"table": {"columns": 3}, "missing": []}),
        ("other", {"table": wide, "missing": []}),
        ("marks", {"table": table, "missing": [3]}),
        ("values", {"table": table, "missing": [], "values": "NA"}),
        ("signs", {"table": table, "missing": [], "decimals": {"bill": ";"}}),
    ):
        dense_xp.save(model, name, extra=extra)
    before = sorted(os.listdir())
    assert says in refused(capsys, *arguments)
    assert sorted(os.listdir()) == before


def test_columns_are_repeated_as_they_stand_in_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(*TRAIN, *QUICK)
    columns = {
        "long": ["12345678901234567890123", "00012", "7"],
        "sign": ["+5", "-5", "5"],
        "price": ["1.10", "$1,234", "2"],
        "when": ["3/1/2024", "", "n/a"],
        "yes": ["TRUE", "false", "NA"],
        "spaces": [" a ", 'say "x"', "a\nb, c"],
        "left": ["yes", "no", "?"],
    }
    table = pl.DataFrame({**columns, **{name: shop()[name][:3] for name in ("age", "city", "member", "since", "bill")}})
    table.write_csv("new.csv")
    names = [*columns, "age"]
    run("predict", "m", "new.csv", "--output", "out.csv", "--keep", ",".join(names))
    assert "left is kept, and what is predicted is left_predicted" in capsys.readouterr().err
    with open("out.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == [*names, "left_predicted", "P(no)", "P(yes)"]
    assert dict(zip(columns, map(list, zip(*rows, strict=True)), strict=False)) == columns
    run("predict", "m", "new.csv", "--output", "out.parquet", "--keep", "left,age,long")
    out = pl.read_parquet("out.parquet")
    assert out.schema["age"] == pl.Int64
    assert out["long"].to_list() == columns["long"]


def test_columns_that_are_named_as_those_of_ours(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = shop().rename({"left": "P(no)", "city": "P(yes)"})
    table.write_csv("named.csv")
    run("train", "named.csv", "--target", "P(no)", "--save", "m", "--quiet", *QUICK)
    run("predict", "m", "named.csv", "--output", "out.csv", "--keep", "P(yes),id")
    assert pl.read_csv("out.csv").columns == ["P(yes)", "id", "P(no)", "P(no)_predicted", "P(yes)_predicted"]
    assert pl.read_csv("out.csv")["P(yes)"].to_list() == table["P(yes)"].to_list()


@pytest.mark.parametrize("name", ["d.csv", "d.parquet", "d.npz"])
@pytest.mark.parametrize("mark", ["-999", "-999.0"])
def test_a_number_that_stands_for_a_missing_one(folder: Path, name: str, mark: str) -> None:
    x = np.where(np.arange(60) % 6 == 0, -999.0, np.arange(60) * 7.5 % 11)
    frame = pl.DataFrame({"x0": x, "y": np.arange(60) % 2})
    frame.write_csv("d.csv")
    frame.write_parquet("d.parquet")
    np.savez("d.npz", X=x[:, None], y=frame["y"])
    run(
        "train",
        name,
        "--target",
        "y",
        "--save",
        "m",
        "--quiet",
        "--epochs",
        "1",
        "--missing",
        mark,
        "--validation",
        "0",
    )
    (column,) = Encoder.from_config(dense_xp.describe("m")["extra"]["table"]).columns
    assert column.missing == 10
    assert column.mean == pytest.approx(x[x >= 0].mean())
    run("predict", "m", name, "--output", "out.parquet")
    out = pl.read_parquet("out.parquet")["P(0)"].to_numpy()
    assert len(set(out[x < 0])) == 1


@pytest.mark.parametrize("mark", ["--", "-", "-n/a-", "--none", "-999", "", "a=b"])
@pytest.mark.parametrize("joined", [True, False])
def test_marks_that_begin_with_a_dash(folder: Path, mark: str, joined: bool) -> None:
    if mark == "--none" and not joined:
        pytest.skip("an option by its looks: --missing=--none")
    shop().with_columns(pl.col("age").cast(pl.String).fill_null(mark)).write_csv("marks.csv")
    said = [f"--missing={mark}"] if joined else ["--missing", mark]
    run("train", "marks.csv", "--target", "left", *said, "--save", "m", "--quiet", "--epochs", "1")
    assert dense_xp.describe("m")["extra"]["missing"] == [mark]
    assert Encoder.from_config(dense_xp.describe("m")["extra"]["table"]).columns[0].kind == "number"


def test_columns_that_begin_with_a_dash(folder: Path) -> None:
    shop().rename({"left": "-left", "id": "--", "age": "-age"}).write_csv("dash.csv")
    run("train", "dash.csv", "--target", "-left", "--drop", "-age", "--save", "m", "--quiet", "--epochs", "1")
    run("predict", "m", "dash.csv", "--keep", "--", "--output", "out.csv")
    assert pl.read_csv("out.csv").columns == ["--", "-left", "P(no)", "P(yes)"]


def test_a_class_that_is_named_as_a_missing_value(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pl.DataFrame({"x": np.arange(90) % 3 * 1.0, "z": np.arange(90) % 7, "y": ["NA", "K", "Ca"] * 30})
    frame.write_csv("ions.csv")
    arguments = ["train", "ions.csv", "--target", "y", "--save", "m", "--epochs", "60", "--learning-rate", "0.05"]
    run(*arguments)
    assert "30 rows without y, the target: left out" in capsys.readouterr().out
    run(*arguments, "--value", "NA")
    out = capsys.readouterr().out
    assert "left out" not in out
    assert "NA 30 (33.3%)" in out
    run("evaluate", "m", "ions.csv", "--json")
    assert json.loads(capsys.readouterr().out)["classes"]["NA"] == {
        "rows": 30, "predicted": 30, "precision": 1.0, "recall": 1.0
    }  # fmt: skip


def test_numbers_as_people_write_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A German file, with numbers above a thousand; then one of which a column leaves the decimal sign open."""
    x = np.arange(60) * 37.25 + 900
    german = [f"{value:,.2f}".translate(str.maketrans(",.", ".,")) for value in x]
    pl.DataFrame({"x": german, "p": [f"{v % 9 + 0.4:.2f}%" for v in x], "y": x * 2}).write_csv("de.csv", separator=";")
    run("train", "de.csv", "--target", "y", "--save", "m", "--epochs", "1", "--validation", "0")
    out = capsys.readouterr().out
    assert "p: " in out
    columns = Encoder.from_config(dense_xp.describe("m")["extra"]["table"]).columns
    assert columns[0].mean == pytest.approx(x.mean())
    assert columns[1].mean == pytest.approx((x % 9 + 0.4).mean(), abs=0.01)
    run("predict", "m", "de.csv", "--output", "all.csv")
    pl.DataFrame({"x": ["1.273", "1.236"], "p": ["1%", "2%"]}).write_csv("new.tsv", separator="\t")
    pl.DataFrame({"x": [1273, 1236], "p": [1.0, 2.0]}).write_csv("same.csv")
    capsys.readouterr()
    run("predict", "m", "new.tsv", "--output", "new.parquet")
    assert "x: '1.273' is read as 1273\n" in capsys.readouterr().err
    run("predict", "m", "same.csv", "--output", "same.parquet")
    assert pl.read_parquet("new.parquet").equals(pl.read_parquet("same.parquet"))


def test_the_decimal_sign_may_be_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pl.DataFrame({"x": [f"{i % 7 + 1},{i * 37 % 900 + 100}" for i in range(60)], "y": [0, 1] * 30}).write_csv(
        "open.csv"
    )
    arguments = ["train", "open.csv", "--target", "y", "--save", "m", "--epochs", "1", "--validation", "0"]
    run(*arguments)
    assert "x: '1,100' is read as 1100 (--decimal , if it is not)" in capsys.readouterr().out
    assert dense_xp.describe("m")["extra"]["decimals"] == {"x": "."}
    run(*arguments, "--decimal", ",")
    assert "x: '1,100' is read as 1.1\n" in capsys.readouterr().out
    assert dense_xp.describe("m")["extra"]["decimals"] == {"x": ","}
    assert 1 < Encoder.from_config(dense_xp.describe("m")["extra"]["table"]).columns[0].mean < 9


def test_what_is_missing_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    line = refused(capsys, "train", "shop.csv", "--target", "left", "--save", "m", "--plot", "c.png")
    assert line == 'dense-xp: pictures need matplotlib: run  pip install "dense-xp[cli]"'


def test_the_page_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Its programs, then its commands one by one; what they print is what it shows, up to the digits."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text(encoding="utf-8")
    commands = 0
    for kind, block in re.findall(r"^```(python|console)\n(.*?)^```", page, re.M | re.S):
        if kind == "python":
            exec(compile(block, "command_line.md", "exec"), {"__name__": "example"})
            continue
        for command, shown in re.findall(r"^\$ dense-xp (.*)\n((?:(?!\$ ).*\n)*)", block, re.M):
            if command.startswith("export") and importlib.util.find_spec("ndonnx") is None:
                continue
            capsys.readouterr()
            assert cli.main(shlex.split(command)) == 0
            out, err = capsys.readouterr()
            assert _without_digits(shown) in _without_digits(err + out), command
            commands += 1
    assert commands >= 5


def _without_digits(text: str) -> str:
    lines = (re.sub(r"-?\d[\d.,]*", "#", re.sub(r"\s+", " ", line)) for line in text.strip().splitlines())
    return "\n".join(lines)


# ------------------------------------------------------------------ what is given is never lost, nor believed


def test_a_command_does_not_write_over_what_it_reads(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(*TRAIN, *QUICK)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "link.csv").symlink_to("shop.csv")
    for arguments in (
        ["train", "shop.csv", "--target", "left", "--save", "shop.csv"],
        ["train", "shop.csv", "--target", "left", "--save", "./shop.csv"],
        ["train", "shop.csv", "--target", "left", "--save", "link.csv"],
        ["train", "shop.csv", "--target", "left", "--save", "n", "--log", "shop.csv"],
        ["train", "shop.csv", "--target", "left", "--save", "n", "--log", "n"],
        ["predict", "m", "shop.csv", "--output", "shop.csv"],
        ["predict", "m", "shop.csv", "--output", str(folder / "link.csv")],
    ):
        assert "would be written over" in refused(capsys, *arguments)
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_predictions_are_written_whole_or_not_at_all(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(*TRAIN, *QUICK)
    for name in ("out.csv", "out.parquet", "out.npz"):
        run("predict", "m", "shop.csv", "--output", name)
        before = (folder / name).read_bytes()

        def full(number: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            assert cli.main(["predict", "m", "shop.csv", "--output", name]) == 2
        assert f"dense-xp: {name} was not written (No space left on device)" in capsys.readouterr().err
        assert (folder / name).read_bytes() == before
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("cut", [1, 10, 200, -8, -1])
def test_files_that_are_cut_off_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str], cut: int) -> None:
    import gzip

    (folder / "shop.csv.gz").write_bytes(gzip.compress((folder / "shop.csv").read_bytes()))
    shop().write_parquet("shop.parquet")
    np.savez_compressed("shop.npz", X=np.ones((50, 3)), y=np.arange(50) % 2)
    for name in ("shop.csv.gz", "shop.parquet", "shop.npz"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:cut])
        target = [] if name.endswith("npz") else ["--target", "left"]
        line = refused(capsys, "train", name, *target, "--save", "m")
        assert name in line


def test_files_do_not_speak_to_the_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[31mred\x07"
    frame = shop().with_columns(
        pl.when(pl.col("left") == "yes").then(pl.lit(evil)).otherwise(pl.lit("no")).alias("left")
    )
    frame.rename({"age": f"age{evil}"}).write_csv("evil.csv")
    assert "\x1b" not in refused(capsys, "train", "evil.csv", "--target", evil, "--save", "m")
    run("train", "evil.csv", "--target", "left", "--save", "m", *QUICK)
    run("evaluate", "m", "evil.csv")
    run("summary", "m")
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert r"\x1b[31mred\x07" in said.out
