"""Dask's cluster: a model goes to each worker once, and blocks are learned from by whoever calls ``partial_fit``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dense_xp import Adam, Dense, Sequential

da = pytest.importorskip("dask.array")

X = np.random.default_rng(0).normal(size=(600, 5)).astype("float32")
BLOCKS = 40


class Counted(Dense):
    """A layer that notes where it arrives."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        with open(os.environ["ARRIVED"], "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
        self.__dict__.update(state)


@pytest.mark.filterwarnings("ignore")  # what the cluster says about its own end
def test_a_model_is_sent_once_to_each_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    dask_config = pytest.importorskip("dask.config")
    note = tmp_path / "arrived"
    monkeypatch.setenv("ARRIVED", str(note))
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", root + os.pathsep + os.environ.get("PYTHONPATH", ""))
    model = Sequential([Counted(8, activation="relu"), Dense(2)], input_shape=(5,), rng=0)
    model.initialize()
    how = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    # which drops copies that no task waits for at the moment, and has them sent again
    keeps_copies = {"distributed.scheduler.active-memory-manager.start": False}
    with dask_config.set(keeps_copies), distributed.LocalCluster(**how) as cluster, distributed.Client(cluster):
        blocks = da.from_array(X, chunks=(len(X) // BLOCKS, 5))
        np.testing.assert_array_equal(model.predict(blocks).compute(), model.predict(X))
        arrived = note.read_text(encoding="utf-8").split()
        workers = [pid for pid in arrived if pid != str(os.getpid())]
        assert 1 <= len(workers) <= 2
        assert len(set(workers)) == len(workers)
        assert len(arrived) < BLOCKS / 4


def test_in_a_graph_the_model_is_one_node() -> None:
    model = Sequential([Dense(2)], input_shape=(5,), rng=0)
    model.initialize()
    graph = dict(model.predict(da.from_array(X, chunks=(15, 5))).__dask_graph__())
    holders = [key for key, task in graph.items() if model.layer_name() in str(key) or _holds(task, model)]
    assert len(holders) == 1


def _holds(task: Any, model: Sequential) -> bool:
    return getattr(task, "value", None) is model


@pytest.mark.filterwarnings("ignore")
def test_incremental_is_partial_fit_over_blocks() -> None:
    wrappers = pytest.importorskip("dask_ml.wrappers")
    estimators = pytest.importorskip("dense_xp.estimators")
    y = (X[:, 0] > 0).astype("int64")
    blocks, labels = da.from_array(X, chunks=(100, 5)), da.from_array(y, chunks=100)
    wrapped = wrappers.Incremental(estimators.DenseClassifier((8,), random_state=0), shuffle_blocks=False)
    wrapped.fit(blocks, labels, classes=[0, 1])
    by_hand = estimators.DenseClassifier((8,), random_state=0)
    for start in range(0, 600, 100):
        by_hand.partial_fit(X[start : start + 100], y[start : start + 100], classes=[0, 1])
    assert wrapped.estimator_.t_ == 600
    np.testing.assert_array_equal(wrapped.estimator_.predict_proba(X), by_hand.predict_proba(X))
    wrapped.partial_fit(blocks, labels, classes=[0, 1])
    assert wrapped.estimator_.t_ == 1200
    assert wrapped.predict(blocks).compute().shape == (600,)


def test_partial_fit_over_blocks_is_a_stream_without_shuffling() -> None:
    """Each call goes once through its rows; in blocks of one batch, these are the steps of a stream."""
    estimators = pytest.importorskip("dense_xp.estimators")
    y = (X[:, 0] > 0).astype("int64")
    parts = [(X[start : start + 100], y[start : start + 100]) for start in range(0, 600, 100)]
    learner = estimators.DenseClassifier((8,), scaling=None, random_state=0, batch_size=100, optimizer=Adam(0.003))
    for _ in range(3):
        for rows, labels in parts:
            learner.partial_fit(rows, labels, classes=[0, 1])
    seed = int(np.random.RandomState(0).randint(np.iinfo(np.int32).max))
    layers = [Dense(8, activation="relu", kernel_initializer="glorot_uniform"),
              Dense(2, kernel_initializer="glorot_uniform")]  # fmt: skip
    model = Sequential(layers, rng=seed)
    model.fit(parts, epochs=3, optimizer=Adam(0.003), verbose=False)
    np.testing.assert_allclose(learner.decision_function(X), np.diff(model.predict(X))[:, 0], rtol=1e-3, atol=1e-4)
