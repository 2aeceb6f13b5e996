"""Networks side by side: each computes and learns what it would alone, and their mean is a mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dense_xp import (
    Dense,
    DenseEnsemble,
    EachMember,
    EnsembleMean,
    GlorotUniform,
    MeanSquaredError,
    Sequential,
    SoftmaxCrossEntropy,
    load,
    save,
    to_numpy,
)
from dense_xp.backend import Backend
from dense_xp.learning.members import MemberLoss
from tests.comparing import assert_close
from tests.layers.layer_gradients import assert_gradient

RNG = np.random.default_rng(0)
K = 3
X = RNG.normal(size=(20, 4))
LABELS = RNG.integers(0, 2, 20)


def made(layer: Any, n_in: int, backend: Any) -> Any:
    layer = type(layer).from_config({**layer.get_config(), "input_shape": (n_in,), "dtype": "float64", "rng": 0})
    layer.to(backend)
    layer.initialize()
    return layer


@pytest.mark.parametrize("lead", [(20,), (4, 5)])
def test_each_member_is_a_dense_layer(backend: Backend, lead: tuple[int, ...]) -> None:
    layer = made(DenseEnsemble(2, K), 12, backend)
    w0 = RNG.normal(size=(1, 6))
    layer.set_weights({"w0": w0})
    W = to_numpy(layer.weights["W"]).reshape(K, 4, 2)
    given = RNG.normal(size=(*lead, 12))
    parts = np.split(given, K, axis=-1)
    expected = np.concatenate([part @ own for part, own in zip(parts, W, strict=True)], axis=-1) + w0[0]
    assert_close(layer.forward_pass(backend.asarray(given, "float64")), expected, backend)
    assert_gradient(layer, backend, given)


@pytest.mark.parametrize("of", ["outputs", "softmax", "sigmoid"])
def test_the_mean_is_that_of_what_is_said(backend: Backend, of: str) -> None:
    layer = made(EnsembleMean(K, of), 12, backend)
    given = 3 * RNG.normal(size=(20, 12))
    each = given.reshape(20, K, 4)
    Y = to_numpy(layer.forward_pass(backend.asarray(given, "float64"), training=False))
    say = {
        "outputs": lambda z: z,
        "softmax": lambda z: np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True),
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    }[of]
    np.testing.assert_allclose(say(Y), say(each).mean(axis=1), rtol=1e-9)
    assert_gradient(layer, backend, given)
    assert_gradient(layer, backend, given, training=True)
    assert np.array_equal(to_numpy(layer.forward_pass(backend.asarray(given, "float64"))), each)


def test_members_that_are_sure_leave_no_infinity(backend: Backend) -> None:
    given = backend.asarray([[1e4, -1e4, 1e4, -1e4]], "float64")
    for of in ("softmax", "sigmoid"):
        layer = made(EnsembleMean(2, of), 4, backend)
        Y = to_numpy(layer.forward_pass(given, training=False))
        assert np.isfinite(Y).all()
        assert np.isfinite(to_numpy(layer.backward_pass(backend.asarray([[1.0, 1.0]], "float64")))).all()


def test_each_member_starts_as_it_would_alone() -> None:
    drawn = EachMember("glorot_uniform", K)((4, 15), np.random.default_rng(3))
    rng = np.random.default_rng(3)
    np.testing.assert_array_equal(drawn, np.concatenate([GlorotUniform()((4, 5), rng) for _ in range(K)], axis=1))
    layer = made(DenseEnsemble(5, K, kernel_initializer="glorot_uniform"), 12, "numpy")
    limit = np.sqrt(6 / (4 + 5))
    assert 0.9 * limit < abs(layer.weights["W"]).max() < limit
    with pytest.raises(ValueError, match="16 columns cannot be shared out to 3 members"):
        EachMember("zeros", K)((2, 16), None)


@pytest.mark.parametrize(
    ("loss", "target", "n_out"), [(MeanSquaredError(), X[:, :2], 2), (SoftmaxCrossEntropy(), LABELS, 2)]
)
@pytest.mark.parametrize("weight", [None, np.arange(20.0)])
def test_the_loss_is_the_mean_over_members(backend: Backend, loss: Any, target: Any, n_out: int, weight: Any) -> None:
    each = RNG.normal(size=(20, K, n_out))
    target_there = backend.asarray(target)
    w = None if weight is None else backend.asarray(weight)
    value, grad = MemberLoss(loss).value_and_grad(backend.asarray(each), target_there, w)
    alone = [loss.value_and_grad(backend.asarray(each[:, k]), target_there, w) for k in range(K)]
    np.testing.assert_allclose(float(value), np.mean([float(v) for v, _ in alone]), rtol=1e-12)
    np.testing.assert_allclose(to_numpy(grad) * K, np.stack([to_numpy(g) for _, g in alone], axis=1), rtol=1e-10)


def network(backend: Any, n: int = K) -> Sequential:
    layers = [
        Dense(8 * n, activation="relu", kernel_initializer=EachMember("glorot_uniform", n)),
        DenseEnsemble(8, n),
        DenseEnsemble(2, n),
        EnsembleMean(n, "softmax"),
    ]
    return Sequential(layers, input_shape=(4,), backend=backend, dtype="float64", rng=0)


def test_members_learn_as_they_would_alone(backend: Backend) -> None:
    """The same batches, and a learner that does not see the size of a gradient."""
    model = network(backend)
    model.initialize("adam")
    start = {name: to_numpy(value) for name, value in model.weights.items()}
    history = model.fit(X, LABELS, 5, 7, loss=MemberLoss(SoftmaxCrossEntropy()), optimizer="adam", verbose=False)
    assert history["loss"][-1] < history["loss"][0]
    outputs = []
    for k in range(K):
        alone = Sequential(
            [Dense(8, activation="relu"), Dense(8), Dense(2)], input_shape=(4,), backend=backend, dtype="float64", rng=0
        )
        alone.initialize("adam")
        weights = {}
        for one, many, n_in in (
            ("dense", "dense", None),
            ("dense_1", "dense_ensemble", 8),
            ("dense_2", "dense_ensemble_1", 8),
        ):
            W, w0 = start[f"{many}.W"], np.split(start[f"{many}.w0"], K, axis=1)[k]
            W = np.split(W, K, axis=1)[k] if n_in is None else W.reshape(K, n_in, -1)[k]
            weights |= {f"{one}.W": W, f"{one}.w0": w0}
        alone.set_weights(weights)
        alone.rng = np.random.default_rng(0)
        model_rng = network("numpy")
        model_rng.initialize()
        alone.fit(X, LABELS, 5, 7, optimizer="adam", rng=model_rng.rng, verbose=False)
        z = to_numpy(alone.predict(X))
        outputs.append(np.exp(z) / np.exp(z).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(np.exp(to_numpy(model.predict(X))), np.mean(outputs, axis=0), rtol=1e-3)


def test_it_is_saved(backend: Backend, tmp_path: Any) -> None:
    model = network(backend)
    model.initialize()
    save(model, tmp_path / "m")
    np.testing.assert_array_equal(to_numpy(load(tmp_path / "m", backend).predict(X)), to_numpy(model.predict(X)))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot share out 7 inputs to 3 members"):
        DenseEnsemble(2, K, input_shape=(7,)).initialize()
    with pytest.raises(ValueError, match="cannot share out 7 inputs to 3 members"):
        Sequential([EnsembleMean(K), Dense(2)], input_shape=(7,)).initialize()
    with pytest.raises(ValueError, match="of must be 'outputs', 'softmax' or 'sigmoid', and is 'median'"):
        EnsembleMean(K, "median")
