"""The moving average of the weights: its formula, where it is used, and that it goes on to the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dense_xp import (
    SGD,
    Adam,
    BatchNorm,
    Checkpoint,
    Dense,
    DivergenceError,
    EarlyStopping,
    ModelFileError,
    MovingAverage,
    Sequential,
    describe,
    load,
    save,
)
from dense_xp.backend import Backend, to_numpy
from tests.training.test_accumulation import Stateful, by_the_pure_step

RNG = np.random.default_rng(1)
X = RNG.normal(size=(24, 3))
Y = RNG.normal(size=24)


@pytest.fixture(params=["fastest", "pure"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With kernels where there are some; and by the pure step, compiled or recorded."""
    if request.param == "pure":
        by_the_pure_step(monkeypatch)
    return str(request.param)


def model(backend: Any = "numpy", dtype: str = "float64", hidden: type[Dense] = Dense) -> Sequential:
    layers = [hidden(4, activation="relu"), BatchNorm(), Dense(1)]
    return Sequential(layers, backend=backend, dtype=dtype, rng=0)


class Weights:
    """The weights after each update."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def begin(self, run: Any) -> None:
        pass

    def batch_end(self, run: Any) -> None:
        flat = {f"{key}.{name}": value for key, own in run.params.items() for name, value in own.items()}
        self.seen.append({name: np.array(to_numpy(value)) for name, value in flat.items()})

    def epoch_end(self, run: Any) -> None:
        pass

    def end(self, run: Any) -> None:
        pass


def expected(seen: list[dict[str, Any]], decay: float, name: str) -> Any:
    share = decay ** np.arange(len(seen))[::-1]
    return np.einsum("t,tij->ij", share / share.sum(), np.asarray([weights[name] for weights in seen]))


def bits(net: Sequential) -> dict[str, bytes]:
    return {name: to_numpy(value).tobytes() for name, value in net.weights.items()}


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_the_formula(backend: Backend, decay: float) -> None:
    net, weights = model(backend), Weights()
    net.fit(X, Y, 3, 10, optimizer=SGD(0.1, momentum=0.5), callbacks=[MovingAverage(decay), weights])
    assert len(weights.seen) == 9
    for name, value in net.weights.items():
        own = to_numpy(value)
        if "running" in name:  # a buffer is that of the last step
            np.testing.assert_array_equal(own, weights.seen[-1][name])
        else:
            np.testing.assert_allclose(own, expected(weights.seen, decay, name), rtol=1e-10, atol=1e-14, err_msg=name)


def test_the_training_itself_does_not_notice(backend: Backend) -> None:
    with_it, without = Weights(), Weights()
    model(backend).fit(X, Y, 3, 10, callbacks=[with_it, MovingAverage(0.9)])
    model(backend).fit(X, Y, 3, 10, callbacks=[without])
    for own, other in zip(with_it.seen, without.seen, strict=True):
        assert {n: v.tobytes() for n, v in own.items()} == {n: v.tobytes() for n, v in other.items()}


def test_it_is_what_is_validated_and_kept(backend: Backend) -> None:
    net = model(backend)
    history = net.fit(
        X, Y, 4, 10, validation_data=(X, Y), callbacks=[MovingAverage(0.8), EarlyStopping(patience=9)], optimizer="adam"
    )
    best = min(history["val_loss"])
    assert history.best_epoch == history["val_loss"].index(best) + 1
    assert net.evaluate(X, Y)["loss"] == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_goes_on_to_the_same_bits(backend: Backend, tmp_path: Path, accumulate: int) -> None:
    options: dict[str, Any] = {"accumulate": accumulate, "validation_data": (X, Y)}
    through = model(backend, "float32")
    whole = through.fit(X, Y, 5, 5, callbacks=[MovingAverage(0.9)], **options)
    path = tmp_path / "model"
    model(backend, "float32").fit(X, Y, 2, 5, callbacks=[MovingAverage(0.9), Checkpoint(path)], **options)
    again, history = load(path, backend), describe(path)["history"]
    assert history.moving_average["steps"] == 2 * (5 if accumulate == 1 else 3)
    history = again.fit(X, Y, 3, 5, history=history, callbacks=[MovingAverage(0.9)], **options)
    assert bits(again) == bits(through)
    assert history.metrics == whole.metrics


def test_without_it_a_training_goes_on_from_the_average() -> None:
    net = model()
    history = net.fit(X, Y, 2, 10, callbacks=[MovingAverage(0.9)])
    other = model()
    other.fit(X, Y, 2, 10, callbacks=[MovingAverage(0.9)])
    later = net.fit(X, Y, 1, 10, history=history)
    assert later.moving_average is None
    other.fit(X, Y, 1, 10)
    assert bits(net) == bits(other)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bits_are_averaged_in_32(backend: Backend, dtype: str, tmp_path: Path) -> None:
    try:
        backend.dtype(dtype)
    except (ValueError, TypeError, RuntimeError) as error:
        pytest.skip(str(error))
    if backend.name == "dpnp":
        pytest.skip("dpnp multiplies no float16 matrix with a vector")
    net = model(backend, dtype)
    history = net.fit(X, Y, 3, 10, optimizer=Adam(0.01), callbacks=[MovingAverage(0.999)])
    assert history.moving_average is not None
    for own in history.moving_average["average"].values():
        for value in own.values():
            assert value.dtype == backend.dtype("float32")
    assert net.weights["dense.W"].dtype == backend.dtype(dtype)


def test_an_epoch_that_fails_leaves_the_average_from_before() -> None:
    net = model()
    history = net.fit(X, Y, 2, 10, optimizer=SGD(0.01), callbacks=[MovingAverage(0.5)])
    before = bits(net)
    x = X.copy() * 1e200
    with pytest.raises(DivergenceError) as error:
        net.fit(x, Y, 1, 10, optimizer=SGD(1e200), history=history, callbacks=[MovingAverage(0.5)])
    assert bits(net) == before
    assert error.value.history.moving_average["steps"] == 6


def test_layers_that_step_by_themselves(backend: Backend) -> None:
    net, weights = model(backend, hidden=Stateful), Weights()
    net.fit(X, Y, 2, 10, optimizer=SGD(0.1), callbacks=[MovingAverage(0.5), weights])
    assert len(weights.seen) == 6
    for name in ("stateful.W", "dense.W"):
        np.testing.assert_allclose(to_numpy(net.weights[name]), expected(weights.seen, 0.5, name), rtol=1e-10)


def test_what_cannot_be_averaged_is_refused() -> None:
    with pytest.raises(ValueError, match="two MovingAverage"):
        model().fit(X, Y, callbacks=[MovingAverage(), MovingAverage()])
    for wrong in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="decay"):
            MovingAverage(wrong)


def test_a_file_whose_average_does_not_fit_is_refused(tmp_path: Path) -> None:
    net = model()
    history = net.fit(X, Y, 1, 10, callbacks=[MovingAverage(0.9)])
    assert history.moving_average is not None
    for change in ({"steps": -1}, {"average": {"other": {"W": np.ones(3)}}}, {"weights": {}}):
        history.moving_average, kept = {**history.moving_average, **change}, history.moving_average
        save(net, tmp_path / "model", history=history)
        history.moving_average = kept
        with pytest.raises(ModelFileError, match="does not fit together"):
            describe(tmp_path / "model")
