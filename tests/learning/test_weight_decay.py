"""Parameters that do not shrink: by name, in every way of stepping, as torch's groups of parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dense_xp import SGD, Adam, AdamW, Dense, LayerNorm, Lion, Optimizer, Sequential, describe, load, save
from dense_xp.backend import Backend, to_numpy
from dense_xp.learning.optimizer import apply_gradients
from dense_xp.learning.optimizers import OPTIMIZERS, as_optimizer
from dense_xp.support.trees import flatten
from tests.comparing import assert_close

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 6)), RNG.normal(size=(20, 3))
BIASES_AND_NORMS = ("w0", "gamma", "beta")


def model_on(backend: Backend, optimizer: Any) -> Sequential:
    layers = [
        Dense(8, activation="tanh", bias_initializer="random_normal"),
        LayerNorm(),
        Dense(3, bias_initializer="random_normal"),
    ]
    model = Sequential(layers, input_shape=(6,), dtype="float64", backend=backend, rng=0)
    model.initialize(optimizer)
    return model


@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_it_is_torchs_group_without_decay(backend: Backend, clip_norm: float | None) -> None:
    torch = pytest.importorskip("torch")
    from dense_xp.interop import to_torch

    ours = AdamW(0.02, weight_decay=0.9, no_decay=BIASES_AND_NORMS, clip_norm=clip_norm)
    model = model_on(backend, ours)
    theirs = to_torch(model).train()
    norms = [module for module in theirs if isinstance(module, torch.nn.LayerNorm)]
    kept = [p for p in theirs.parameters() if p.ndim == 1]
    assert len(norms) == 1
    assert len(kept) == 4
    decayed = [p for p in theirs.parameters() if p.ndim == 2]
    groups = [{"params": decayed, "weight_decay": 0.9}, {"params": kept, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.02)
    for _ in range(6):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(theirs(torch.from_numpy(X)), torch.from_numpy(Y)).backward()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip_norm, foreach=False)
        optimizer.step()
    model.fit(X, Y, epochs=6, batch_size=20, loss="mse", verbose=False)
    expected = [value.detach().numpy() for value in theirs.parameters()]
    # torch adds 1e-6 to the norm by which it divides
    rtol = 1e-8 if clip_norm is None else 1e-5
    for value, wanted in zip(model.weights.values(), expected, strict=True):
        np.testing.assert_allclose(to_numpy(value), wanted.T.reshape(value.shape), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("kind", OPTIMIZERS.values())
def test_every_optimizer_leaves_them_out(backend: Backend, kind: type[Optimizer]) -> None:
    """Those that are left out move as without decay, the others as with it."""
    params = {"a": {"W": backend.asarray(X), "w0": backend.asarray(Y)}}
    grads = {"a": {"W": backend.asarray(X + 1.0), "w0": backend.asarray(Y - 1.0)}}

    def moved(**kwargs: Any) -> Any:
        optimizer = kind(0.1, **kwargs)
        state = {"a": {name: optimizer.init(value) for name, value in params["a"].items()}}
        return apply_gradients(optimizer, params, grads, state, 0.1)[0]["a"]

    some, none, every = moved(weight_decay=0.3, no_decay=["w0"]), moved(weight_decay=0.0), moved(weight_decay=0.3)
    np.testing.assert_array_equal(to_numpy(some["w0"]), to_numpy(none["w0"]))
    np.testing.assert_array_equal(to_numpy(some["W"]), to_numpy(every["W"]))
    assert np.all(to_numpy(every["w0"]) != to_numpy(none["w0"]))


def test_by_hand_it_is_what_fit_does(backend: Backend) -> None:
    optimizer = Lion(0.01, weight_decay=2.0, no_decay=BIASES_AND_NORMS)
    fitted, by_hand = model_on(backend, optimizer), model_on(backend, optimizer)
    fitted.fit(X, Y, epochs=3, batch_size=20, loss="mse", verbose=False)
    target = backend.asarray(Y)
    for _ in range(3):
        prediction = by_hand.forward_pass(backend.asarray(X))
        by_hand.backward_pass((prediction - target) * (2.0 / Y.size))
    for name, value in fitted.weights.items():
        assert_close(by_hand.weights[name], to_numpy(value), backend, ulps=1e4)


def test_the_optimizer_of_a_bias_does_not_shrink_it(backend: Backend) -> None:
    layer = Dense(3, (2,), backend=backend, dtype="float64")
    layer.initialize(SGD(0.1, weight_decay=0.5, no_decay=["w0"]))
    layer.w0 = np.ones((1, 3))
    zero = backend.asarray(np.zeros((1, 3)))
    np.testing.assert_array_equal(to_numpy(layer.w0_opt.update(layer.w0, zero)), 1.0)
    assert (layer.W_opt.weight_decay, layer.w0_opt.weight_decay) == (0.5, 0.0)


def test_a_saved_training_goes_on_without_them(backend: Backend, tmp_path: Path) -> None:
    rule = Adam(0.01, weight_decay=0.5, no_decay=BIASES_AND_NORMS)
    model = model_on(backend, rule)
    model.fit(X, Y, epochs=2, batch_size=20, loss="mse", verbose=False)
    save(model, tmp_path / "model.safetensors", training=True)
    assert describe(tmp_path / "model.safetensors")["optimizer"]["no_decay"] == list(BIASES_AND_NORMS)
    again = load(tmp_path / "model.safetensors", backend=backend)
    assert again.optimizer == rule
    for each in (model, again):
        each.fit(X, Y, epochs=2, batch_size=20, loss="mse", verbose=False)
    for name, value in flatten(model.params).items():
        np.testing.assert_array_equal(to_numpy(again.weights[name]), to_numpy(value))


def test_names() -> None:
    rule = as_optimizer({"name": "adamw", "no_decay": ["w0"]})
    assert rule == AdamW(no_decay=("w0",))
    assert isinstance(rule, Optimizer)
    assert rule.for_parameter("w0") == AdamW(no_decay=("w0",), weight_decay=0.0)
    assert rule.for_parameter("W") is rule
    with pytest.raises(TypeError, match=r"^no_decay must be a list, and is 'w0': no_decay=\['w0'\]$"):
        AdamW(no_decay="w0")
    with pytest.raises(TypeError, match=r"^no_decay must hold names, and has 3$"):
        AdamW(no_decay=["w0", 3])  # type: ignore[list-item]
