"""Gradients of several batches for one update: as one large batch would, in each way to step a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dense_xp import (
    L2,
    SGD,
    Adam,
    AdamW,
    BatchNorm,
    Dense,
    LayerNorm,
    LoRA,
    MaxNorm,
    MeanSquaredError,
    Sequential,
    SoftmaxCrossEntropy,
)
from dense_xp.backend import Backend, to_numpy
from dense_xp.learning.losses import Loss
from dense_xp.training import fitting
from dense_xp.training.compiled import CompiledStep
from dense_xp.training.recorded import RecordedStep
from dense_xp.training.steps import Step

RNG = np.random.default_rng(3)
X = RNG.normal(size=(50, 4))
LABELS = RNG.integers(0, 3, size=50)
WEIGHT = np.where(RNG.random(50) < 0.3, 0.0, RNG.uniform(0.5, 2.0, size=50))
ONE_HOT = np.eye(3)[LABELS]


def frozen(layer: Dense) -> Dense:
    layer.trainable = False
    return layer


MODELS: dict[str, Callable[[], list[Any]]] = {
    "plain": lambda: [Dense(8, activation="relu"), Dense(3)],
    "norm": lambda: [Dense(8, activation="tanh", use_bias=False), LayerNorm(), Dense(3)],
    "rules": lambda: [Dense(8, activation="gelu").regularized(W=L2(0.1)).constrained(w0=MaxNorm(0.1)), Dense(3)],
    "frozen": lambda: [frozen(Dense(8, activation="relu")), LoRA(Dense(3), 2)],
}


def trained(
    backend: Backend, batch_size: int, accumulate: int, *, model: str = "plain", dtype: str = "float64", **options: Any
) -> tuple[Sequential, list[float]]:
    options = {"optimizer": Adam(0.01), "y": LABELS, "x": X, **options}
    net = Sequential(MODELS[model](), backend=backend, dtype=dtype, rng=0)
    x, y = options.pop("x"), options.pop("y")
    history = net.fit(x, y, 3, batch_size, accumulate=accumulate, **options)
    return net, history["loss"]


def assert_alike(one: Sequential, other: Sequential, tolerance: float = 1e-11) -> None:
    assert one.steps == other.steps
    assert set(one.weights) == set(other.weights)
    for name, value in one.weights.items():
        a, b = to_numpy(value), to_numpy(other.weights[name])
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)


def by_the_pure_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def stepper(model: Any, loss: Any, metrics: Any, ndim: int, batch_size: int, accumulate: int) -> Step:
        return (RecordedStep if RecordedStep.serves(model) else CompiledStep)(model, loss, metrics, accumulate)

    monkeypatch.setattr(fitting, "stepper", stepper)


@pytest.fixture(params=["fastest", "pure"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With kernels where there are some; and by the pure step, compiled or recorded."""
    if request.param == "pure":
        if "backend" in request.fixturenames and not request.getfixturevalue("backend").kernels:
            pytest.skip("the fastest step is the pure one")
        by_the_pure_step(monkeypatch)
    return str(request.param)


# 50 samples: three groups of 15, and one of the last 5, which is not full
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
def test_small_batches_are_a_large_one(backend: Backend, model: str, weight: Any) -> None:
    large, losses = trained(backend, 15, 1, model=model, sample_weight=weight)
    small, own = trained(backend, 5, 3, model=model, sample_weight=weight)
    assert_alike(small, large)
    assert small.steps == 3 * 4
    if model != "rules":  # a penalty is a part of each value
        np.testing.assert_allclose(own, losses, rtol=1e-11)


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(0.1, momentum=0.9),
        Adam(0.01, clip_norm=0.05),
        SGD(0.1, clip_value=0.01),
        AdamW(0.1, clip_norm=0.1, clip_value=0.05, no_decay=["w0"]),
    ],
    ids=repr,
)
def test_what_is_clipped_is_the_mean(backend: Backend, optimizer: Any) -> None:
    large, _ = trained(backend, 12, 1, optimizer=optimizer)
    small, _ = trained(backend, 4, 3, optimizer=optimizer)
    assert_alike(small, large)


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (SoftmaxCrossEntropy(class_weight=(0.5, 1, 3)), LABELS),
        (SoftmaxCrossEntropy(ignore_index=0), LABELS),
        (MeanSquaredError(), ONE_HOT),
    ],
    ids=repr,
)
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
def test_samples_count_as_the_loss_says(backend: Backend, loss: Loss, y: Any, weight: Any) -> None:
    large, losses = trained(backend, 20, 1, loss=loss, y=y, sample_weight=weight)
    small, own = trained(backend, 5, 4, loss=loss, y=y, sample_weight=weight)
    assert_alike(small, large)
    np.testing.assert_allclose(own, losses, rtol=1e-11)


def test_batches_of_weight_zero_count_for_nothing() -> None:
    weight = np.where(np.arange(50) < 25, 0.0, 1.0)
    small, _ = trained("numpy", 5, 5, sample_weight=weight, shuffle=False)  # type: ignore[arg-type]
    large, _ = trained("numpy", 25, 1, sample_weight=weight, shuffle=False)  # type: ignore[arg-type]
    assert_alike(small, large)
    assert all(np.isfinite(to_numpy(value)).all() for value in small.weights.values())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_fewer_bits(backend: Backend, dtype: str) -> None:
    try:
        backend.dtype(dtype)
    except (ValueError, TypeError, RuntimeError) as error:
        pytest.skip(str(error))
    large, _ = trained(backend, 15, 1, dtype=dtype)
    small, _ = trained(backend, 5, 3, dtype=dtype)
    assert small.loss_scale == large.loss_scale
    tolerance = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}[dtype]
    for name, value in large.weights.items():
        a, b = (np.asarray(to_numpy(v), dtype="float64") for v in (small.weights[name], value))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)


def test_a_sum_that_overflows_is_left_out_and_forgotten(backend: Backend) -> None:
    """Loss scaling: one batch of a group overflows, the group is left out, the factor is halved, and it goes on."""
    try:
        backend.dtype("float16")
    except (ValueError, TypeError, RuntimeError) as error:
        pytest.skip(str(error))
    if backend.name == "dpnp":
        pytest.skip("dpnp multiplies no float16 matrix with a vector")
    net = Sequential([Dense(1)], backend=backend, dtype="float16", rng=0)
    net.set_input_shape((2,))
    net.initialize(SGD(0.001))
    before = to_numpy(net.weights["dense.W"])
    x, y = np.ones((8, 2), "float32"), np.zeros(8, "float32")
    y[1] = 60.0  # times two and the factor 2¹⁵: more than 65,504
    net.fit(x, y, 1, 1, accumulate=4, shuffle=False)
    after = to_numpy(net.weights["dense.W"])
    assert net.loss_scale == (2.0**14, 1.0)
    assert np.isfinite(after).all()
    assert (after != before).all()  # by the second group


class Stateful(Dense):
    """A layer that writes the stateful methods."""

    def forward_pass(self, X: Any, training: bool = True) -> Any:
        return super().forward_pass(X, training)


def test_layers_that_step_by_themselves_get_the_large_batch(backend: Backend) -> None:
    def net() -> Sequential:
        return Sequential([Stateful(8, activation="relu"), BatchNorm(), Dense(3)], backend=backend, rng=0)

    one, other = net(), net()
    one.fit(X, LABELS, 2, 15)
    other.fit(X, LABELS, 2, 5, accumulate=3)
    assert_alike(other, one, 0.0)


def test_inputs_with_more_axes(backend: Backend) -> None:
    x, y = X[:48].reshape(24, 2, 4), LABELS[:48].reshape(24, 2)
    large, _ = trained(backend, 10, 1, x=x, y=y)
    small, _ = trained(backend, 5, 2, x=x, y=y)
    assert_alike(small, large)


def test_each_batch_has_its_own_statistics() -> None:
    """BatchNorm: the buffers follow each batch, not each update."""
    net = Sequential([BatchNorm(momentum=0.5)], rng=0, dtype="float64")
    net.fit(X[:20], X[:20], 1, 5, accumulate=4, shuffle=False, optimizer=SGD(0.0))
    mean = np.zeros(4)
    for start in range(0, 20, 5):
        mean = 0.5 * mean + 0.5 * X[start : start + 5].mean(axis=0)
    np.testing.assert_allclose(to_numpy(net.layers[0].weights["running_mean"]).reshape(-1), mean, rtol=1e-12)


def test_one_is_as_without(backend: Backend) -> None:
    net = Sequential(MODELS["plain"](), backend=backend, dtype="float64", rng=0)
    net.fit(X, LABELS, 3, 5, optimizer=Adam(0.01))
    assert_alike(trained(backend, 5, 1)[0], net, 0.0)


def test_a_training_that_goes_on(backend: Backend) -> None:
    through, _ = trained(backend, 5, 3)
    through.fit(X, LABELS, 2, 5, accumulate=3)
    again, _ = trained(backend, 5, 3)
    again.fit(X, LABELS, 1, 5, accumulate=3)
    again.fit(X, LABELS, 1, 5, accumulate=3)
    assert_alike(again, through, 0.0)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2"])
def test_how_many_is_a_positive_integer(wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="accumulate"):
        Sequential([Dense(3)]).fit(X, LABELS, accumulate=wrong)
