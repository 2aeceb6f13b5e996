"""Settings that people have: nothing of ours trips over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dense_xp import BatchNorm, Dense, Dropout, LayerNorm, LoRA, Sequential
from dense_xp.layers.activations import ACTIVATIONS
from dense_xp.learning.distributions import LogLink
from dense_xp.learning.named_losses import LOSSES
from dense_xp.learning.optimizers import OPTIMIZERS

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 5)) * np.asarray([1e-30, 1.0, 3.0, 1e-20, 1e-3])
LABELS = RNG.integers(0, 3, size=24)


def train(backend: str, activation: str, loss: str, optimizer: Any) -> Any:
    """Train a network with something of everything, and use it in every way."""
    binary = "sigmoid" in loss or loss == "bce"
    log_link = isinstance(LOSSES.made(loss), LogLink)
    y: Any = LABELS if "softmax" in loss else np.eye(3)[LABELS] if binary else RNG.normal(size=(24, 3))
    y = np.exp(y) if log_link else y
    each = LOSSES.made(loss).outputs_per_target
    layers = [Dense(8), BatchNorm(), Dense(8, activation=activation), Dropout(0.5), LayerNorm(), Dense(3 * each)]
    model = Sequential(layers, backend=backend, rng=0)
    history = model.fit(X, y, 2, 7, loss=loss, optimizer=optimizer, sample_weight=RNG.uniform(size=24), rng=0)
    metrics = ["accuracy", "f1", "auc"] if "softmax" in loss else ["r2"] if each == 1 else [loss]
    model.evaluate(X, y, loss=loss, metrics=metrics)
    model.forward_pass(model.backend.asarray(X, "float32"))
    model.backward_pass(model.backend.asarray(np.full((24, 3 * each), 1e-30), "float32"))
    return history["loss"], model.predict(X)


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "softmax"])
def test_numpy_that_raises_at_underflow_and_infinities(activation: str) -> None:
    expected = train("numpy", activation, "softmax_cross_entropy", "adam")
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state
    with np.errstate(all="raise"):
        train("numpy", activation, "softmax_cross_entropy", "adam")
        Dense(3, (5,), activation=activation, backend="numpy").forward_pass(np.full((2, 5), 1e38))
    assert np.isfinite(expected[1]).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_numpy_that_raises_with_every_loss_and_optimizer(loss: str, optimizer: str) -> None:
    with np.errstate(all="raise"):
        train("numpy", "tanh", loss, optimizer)
        one = LOSSES.made(loss).outputs_per_target > 1
        LOSSES.made(loss)(np.asarray([[1e38, -1e38]]), np.asarray([[1.0]] if one else [[1.0, 0.0]]))
        OPTIMIZERS.made(optimizer).update(np.full((1, 2), 1e-30), np.full((1, 2), 1e-300))


@pytest.mark.parametrize("loss", LOSSES)
def test_jax_that_refuses_to_add_axes(loss: str) -> None:
    jax = pytest.importorskip("jax")
    with jax.numpy_rank_promotion("raise"):
        train("jax", "gelu", loss, "adam")
        for layer in (Dense(3), LayerNorm(), BatchNorm(), LoRA(Dense(3), 2)):
            model = Sequential([layer, Dense(2)], input_shape=(5,), backend="jax", rng=0)
            model.initialize("adam")
            model.forward_pass(np.ones((2, 3, 5)).tolist())
            model.backward_pass(np.ones((2, 3, 2)).tolist())
