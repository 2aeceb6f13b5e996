"""Batches that travel beside the computation: every one whole and in its turn, and no memory used before its time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dense_xp import SGD, Dense, Dropout, Sequential
from dense_xp.backend import Backend, BackendError, get_backend, to_numpy, use_backend
from dense_xp.kernels import lane_for
from dense_xp.learning.metric import Metric
from dense_xp.training.feeding import Feeder, NoiseFeeder
from dense_xp.training.samples import Rows
from tests.kernels.kernel_sets import used_by_trainings
from tests.stand_ins import cuda_on_host, cupy_on_host

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 4))
LABELS = RNG.integers(0, 3, size=50)


def device(name: str) -> Backend:
    if name == "the-stand-in":
        if cupy_on_host.COMPILER is None:
            pytest.skip("there is no C++ compiler")
        return cuda_on_host.backend()
    try:
        return get_backend(name)
    except BackendError as error:
        pytest.skip(str(error))


def lane_of(backend: Backend) -> Any:
    if backend.name == "cuda_on_host":
        return cuda_on_host.kernels().lane(None)
    return lane_for(backend.kernels, backend.device)


def served(where: str, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Return a backend whose trainings use the kernels and the lane of its device."""
    backend = device(where)
    if where == "the-stand-in":
        used_by_trainings(cuda_on_host.kernels(), monkeypatch)
    return backend


DEVICES = ["the-stand-in", "cupy", "torch:cuda"]


@pytest.mark.parametrize("where", DEVICES)
def test_every_batch_arrives_in_its_turn(where: str) -> None:
    backend = device(where)
    host = get_backend("numpy")
    with backend.scope():
        sources, dtypes = (
            [Rows(X, host, "float32", "X"), Rows(LABELS, host, "float32", "y")],
            [np.dtype("float32"), LABELS.dtype],
        )
        feeder = Feeder(lane_of(backend), sources, dtypes, 8)
        for _ in range(3):
            order = RNG.permutation(50)
            chunks = [order[i : i + 8] for i in range(0, 50, 8)]
            sums = [2.0 * arrays[0] for arrays in feeder.batches(chunks)]  # work on each
            labels = [1 * arrays[1] for arrays in feeder.batches(chunks)]
            for rows, doubled, label in zip(chunks, sums, labels, strict=True):
                np.testing.assert_array_equal(to_numpy(doubled), 2.0 * X[rows].astype("float32"))
                np.testing.assert_array_equal(to_numpy(label), LABELS[rows])


@pytest.mark.parametrize("where", DEVICES)
def test_a_training_on_host_data_is_that_on_data_of_the_device(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = served(where, monkeypatch)
    losses = []
    weight = RNG.uniform(0.5, 1.0, size=50)
    with use_backend(backend), backend.scope():
        for place in (np.asarray, backend.asarray):
            model = Sequential([Dense(8, activation="relu"), Dense(3)], rng=0)
            kwargs = {"sample_weight": weight, "rng": 1}
            losses.append(model.fit(place(X.astype("float32")), LABELS, 4, 12, **kwargs)["loss"])  # type: ignore[arg-type]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("where", DEVICES)
def test_sparse_inputs_travel_too(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    backend = served(where, monkeypatch)
    thin = np.where(RNG.uniform(size=X.shape) < 0.3, X, 0.0)
    losses = []
    with use_backend(backend), backend.scope():
        for data in (thin, sparse.csr_matrix(thin), sparse.csc_matrix(thin)):
            model = Sequential([Dense(8, activation="relu"), Dense(3)], rng=0)
            losses.append(model.fit(data, LABELS, 3, 12, rng=1)["loss"])
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("where", [*DEVICES, "numpy", "torch", "jax", "array_api_strict"])
def test_numbers_in_the_other_byte_order(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = served(where, monkeypatch)
    weight = RNG.uniform(0.5, 1.0, size=50)
    results = []
    with use_backend(backend), backend.scope():
        for real, whole in (("<f8", "<i8"), (">f8", ">i8")):
            model = Sequential([Dense(8, activation="relu"), Dense(3)], rng=0)
            data = X.astype(real), LABELS.astype(whole)
            history = model.fit(*data, 2, 12, rng=1, sample_weight=weight.astype(real))
            results.append((history["loss"], model.evaluate(*data), model.predict(data[0]).tolist()))
            model.forward_pass(data[0]) if where == "numpy" else None
    assert results[0] == results[1]


@pytest.mark.parametrize("where", [*DEVICES, "torch", "array_api_strict"])
def test_data_on_the_device_ask_for_one_copy_an_epoch(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for one a batch: each makes the host wait."""
    backend = served(where, monkeypatch)
    copies = []
    with use_backend(backend), backend.scope():
        data = backend.asarray(X.astype("float32")), backend.asarray(LABELS)
        put = backend.library.put
        for batch_size in (25, 5):
            model = Sequential([Dense(8, activation="relu"), Dropout(0.5), Dense(3)], rng=0)
            model.fit(*data, 1, 25)  # initialized
            sent: list[Any] = []
            monkeypatch.setattr(backend.library, "put", lambda *args, sent=sent: sent.append(args) or put(*args))
            model.fit(*data, 1, batch_size)
            copies.append(len(sent) - (50 // batch_size if lane_of(backend) is None else 0))  # the masks
    assert copies[0] == copies[1]


@pytest.mark.parametrize("where", [*DEVICES, "torch", "numpy"])
def test_noise_of_any_form_arrives(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = served(where, monkeypatch)
    with backend.scope():
        noise = NoiseFeeder(backend)
        assert noise.placed(None) is None
        for shape in ((8, 3), (8, 3), (5, 3), (9, 3), (9, 2, 2), ()):
            for draw in (lambda shape: RNG.uniform(size=shape) > 0.5, lambda shape: RNG.normal(size=shape)):
                drawn = {"a": np.asarray(draw(shape)), "b": {"c": np.asarray(draw((4, *shape)))}}
                placed = noise.placed(drawn)
                results = [placed["a"], placed["b"]["c"]]
                for result, expected in zip(results, [drawn["a"], drawn["b"]["c"]], strict=True):
                    assert backend.library.owns(result)
                    np.testing.assert_array_equal(to_numpy(result), expected)
        alone = RNG.normal(size=(4, 2))
        np.testing.assert_array_equal(to_numpy(noise.placed(alone)), alone)


class Targets(Metric):
    """Keeps the targets themselves."""

    name = "targets"

    def statistics(self, prediction: Any, target: Any, weight: Any = None) -> Any:
        return target

    def value(self, statistics: Any) -> float:
        return float(statistics @ np.arange(len(statistics)))


class Own(SGD):
    """An optimizer that has no kernel."""


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("optimizer", [SGD(0.1), Own(0.1)])
def test_what_a_metric_keeps_of_a_batch_stays(where: str, optimizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = served(where, monkeypatch)
    with use_backend(backend), backend.scope():
        model = Sequential([Dense(3)], rng=0)
        history = model.fit(X, LABELS, 2, 8, metrics=[Targets()], shuffle=False, optimizer=optimizer)
    assert history["targets"] == [float(LABELS @ np.arange(50))] * 2


def test_where_there_is_nothing_to_gain_nothing_changes() -> None:
    for name in ("numpy", "array_api_strict", "torch", "jax"):
        try:
            backend = get_backend(name)
        except BackendError:
            continue
        assert lane_of(backend) is None


@pytest.mark.parametrize("rule", ["host_waits", "waits", "work_waits", "work_marks", "finish"])
def test_each_rule_is_needed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in complains as soon as one of them is left out."""
    backend = device("the-stand-in")
    lane = lane_of(backend)
    monkeypatch.setattr(lane, rule, lambda *_: None)

    def train() -> None:
        feeder = Feeder(lane, [Rows(X, get_backend("numpy"), "float32", "X")], [np.dtype("float32")], 8)
        results: list[Any] = []
        for i, arrays in enumerate(feeder.batches([np.arange(8)] * 6)):
            results.append(arrays[0] + 1.0)
            if rule == "finish" and i == 3:
                break
        if rule == "finish":
            buffers = [turn.buffers[0] for turn in feeder.sender.turns]
            del feeder  # its memory is given back
            for buffer in buffers:
                buffer[...] = 0.0  # somebody else's now

    with pytest.raises(AssertionError, match="a race"):
        train()
