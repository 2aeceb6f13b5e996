"""Checkpoints and logs, as a training writes them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dense_xp import Callback, Checkpoint, CSVLog, Dense, Sequential, describe, load
from dense_xp.backend import Backend

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 4))
Y = RNG.normal(size=30)


def model(backend: Any = "numpy") -> Sequential:
    return Sequential([Dense(5, activation="relu"), Dense(1)], backend=backend, rng=0)


def test_a_training_goes_on_from_its_checkpoint(backend: Backend, tmp_path: Path) -> None:
    through = model(backend)
    through.fit(X, Y, 3, 10)
    through.fit(X, Y, 2, 10)
    path = tmp_path / "model.safetensors"
    model(backend).fit(X, Y, 3, 10, callbacks=[Checkpoint(path)])
    resumed = load(path, backend)
    resumed.fit(X, Y, 2, 10)
    for name, value in through.weights.items():
        np.testing.assert_array_equal(backend.to_numpy(resumed.weights[name]), backend.to_numpy(value))
    assert describe(path)["history"].epochs == 3


def test_every_few_epochs_each_in_its_file(tmp_path: Path) -> None:
    model().fit(X, Y, 5, 10, callbacks=[Checkpoint(tmp_path / "at-{epoch}", every=2)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["at-2", "at-4"]
    assert describe(tmp_path / "at-4")["steps"] == 12


@pytest.mark.parametrize(("mode", "kept"), [("min", [1, 3]), ("max", [1, 2, 4])])
def test_the_best_epochs_alone(tmp_path: Path, mode: str, kept: list[int]) -> None:
    scores = iter([3.0, 4.0, 2.0, 5.0, float("nan")])
    checkpoint = Checkpoint(tmp_path / "{epoch}", monitor="score", mode=mode)

    def measured(run: Any) -> None:
        run.history.metrics.setdefault("score", []).append(next(scores))

    model().fit(X, Y, 5, 10, callbacks=[measured, checkpoint])
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == kept
    with pytest.raises(ValueError, match=r"Checkpoint watches 'score', and the history has only \['loss'\]"):
        model().fit(X, Y, 1, 10, callbacks=[checkpoint])


@pytest.mark.parametrize("arguments", [{"every": 0}, {"every": True}, {"every": 1.5}, {"mode": "best"}])
def test_arguments_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be"):
        Checkpoint("x", **arguments)


def rows(path: str) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_log_has_a_line_for_each_epoch(tmp_path: Path) -> None:
    log = CSVLog(tmp_path / "log.csv")
    assert isinstance(log, Callback)
    trained = model()
    history = trained.fit(X, Y, 3, 10, validation_data=(X, Y), callbacks=[log])
    found = rows(log.path)
    assert [row["epoch"] for row in found] == ["1", "2", "3"]
    for name in ("loss", "val_loss"):
        assert [float(row[name]) for row in found] == history[name]
    assert 0 < float(found[0]["seconds"]) <= float(found[2]["seconds"]) <= history.seconds + 1e-3

    trained.fit(X, Y, 2, 10, validation_data=(X, Y), callbacks=[CSVLog(log.path, append=True)])
    assert [row["epoch"] for row in rows(log.path)] == ["1", "2", "3", "4", "5"]
    with pytest.raises(ValueError, match=r"this training measures \['loss'\]: write another file"):
        trained.fit(X, Y, 1, 10, callbacks=[CSVLog(log.path, append=True)])
    assert len(rows(log.path)) == 5
    trained.fit(X, Y, 1, 10, callbacks=[log])
    assert [row["epoch"] for row in rows(log.path)] == ["1"]
