"""Training in 16 bits: what float32 keeps beside it, and the scale of the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dense_xp import SGD, Adam, AdamW, Dense, Sequential, load, save
from dense_xp.backend import Backend, to_numpy
from dense_xp.datasets import load_digits
from dense_xp.learning import loss_scaling
from dense_xp.learning.losses import MeanSquaredError
from dense_xp.training.step import LOSS_SCALE, train_step
from tests.comparing import assert_same_kind

RNG = np.random.default_rng(3)
X = RNG.normal(size=(48, 6))
Y = RNG.normal(size=(48, 2))


def needs(backend: Backend, dtype: str) -> None:
    if not hasattr(backend.xp, dtype):
        pytest.skip(f"{backend} has no {dtype}")


def network(backend: Backend, dtype: str = "float16", **kwargs: Any) -> Sequential:
    # dpnp multiplies no float16 matrix with a vector: two outputs, and batches of more than one
    return Sequential([Dense(8, activation="relu"), Dense(2)], dtype=dtype, backend=backend, rng=0, **kwargs)


# ------------------------------------------------------------------------------------- master weights


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("optimizer", [SGD(1e-4), SGD(1e-4, momentum=0.5), AdamW(1e-4)], ids=repr)
def test_steps_smaller_than_a_digit_add_up(backend: Backend, dtype: str, optimizer: Any) -> None:
    """Around 1, float16 moves by 0.0005 or not at all, and bfloat16 by 0.004."""
    needs(backend, dtype)
    param, grad = backend.asarray(np.ones((2, 3)), dtype), backend.asarray(np.ones((2, 3)), dtype)
    exact, exact_grad = backend.asarray(np.ones((2, 3)), "float32"), backend.asarray(np.ones((2, 3)), "float32")
    state, exact_state = optimizer.init(param), optimizer.init(exact)
    for _ in range(100):
        param, state = optimizer.step(param, grad, state)
        exact, exact_state = optimizer.step(exact, exact_grad, exact_state)
    assert np.all(to_numpy(exact) < 0.9905)
    np.testing.assert_array_equal(to_numpy(state["master"]), to_numpy(exact))
    np.testing.assert_array_equal(to_numpy(param), to_numpy(backend.xp.astype(exact, backend.dtype(dtype))))
    assert_same_kind(state["master"], backend, "float32", (2, 3))
    assert "master" not in exact_state


def test_what_is_assigned_counts(backend: Backend) -> None:
    """An entry that was changed from outside starts from there; the others keep their master."""
    needs(backend, "float16")
    layer = Dense(2, (2,), dtype="float16", backend=backend, rng=0)
    layer.initialize(SGD(1e-4))
    layer.W = [[1.0, 1.0], [1.0, 1.0]]
    ones, grad = (backend.asarray(np.ones((2, 2)), "float16") for _ in range(2))
    for _ in range(2):
        layer.forward_pass(ones)
        layer.backward_pass(grad)
    changed = to_numpy(layer.W).copy()
    changed[0, 1] = 5.0
    layer.W = changed
    layer.forward_pass(ones)
    layer.backward_pass(grad)
    # the gradient of each entry is 2: three steps of 0.0002, or one from 5
    np.testing.assert_allclose(
        to_numpy(layer.optimizer_state["W"]["master"]), [[0.9994, 4.9998], [0.9994, 0.9994]], rtol=1e-7
    )
    np.testing.assert_array_equal(to_numpy(layer.W), np.asarray([[0.9994, 5.0], [0.9994, 0.9994]], "float16"))


# ------------------------------------------------------------------------------------- the scale


def test_the_factor_falls_grows_and_has_its_limits() -> None:
    state = {"factor": np.asarray(8.0), "steps": np.asarray(0.0)}

    def after(finite: bool, times: int = 1) -> tuple[float, float]:
        nonlocal state
        for _ in range(times):
            state = loss_scaling.advanced(state, np.asarray(finite))
        return float(state["factor"]), float(state["steps"])

    assert after(True, loss_scaling.PATIENCE - 1) == (8.0, loss_scaling.PATIENCE - 1)
    assert after(True) == (16.0, 0.0)
    assert after(True) == (16.0, 1.0)
    assert after(False) == (8.0, 0.0)
    assert after(False, 9) == (1.0, 0.0)
    state["factor"] = np.asarray(loss_scaling.LARGEST)
    assert after(True, loss_scaling.PATIENCE) == (loss_scaling.LARGEST, 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, None])
def test_unscaled_gradients_and_whether_all_are_finite(backend: Backend, bad: float | None) -> None:
    needs(backend, "float16")
    host = np.asarray([[2.0, 2.0**-24]], "float16")
    other = host.copy()
    if bad is not None:
        other[0, 1] = bad
    grads = {"a": {"W": backend.asarray(host)}, "b": backend.asarray(other)}
    found, finite = loss_scaling.unscaled(grads, loss_scaling.place(backend, (1024.0, 3.0)))
    assert bool(finite) == (bad is None)
    assert_same_kind(found["a"]["W"], backend, "float32", (1, 2))
    np.testing.assert_array_equal(to_numpy(found["a"]["W"]), [[2.0**-9, 2.0**-34]])


def one_step(backend: Backend, factor: float | None) -> tuple[Sequential, Any, Any, Any]:
    """Take a step from zero towards targets of -2⁻²⁰: the gradients, of 2⁻²⁶, lie below the numbers of float16."""
    model = Sequential([Dense(2, use_bias=False, kernel_initializer="zeros")], dtype="float16", backend=backend)
    model.build_for(X, SGD(1.0))
    inputs, aims = backend.asarray(np.eye(64, 6), "float16"), backend.asarray(np.full((64, 2), -(2.0**-20)), "float32")
    state = model.optimizer_state
    if factor is not None:
        state = {**state, LOSS_SCALE: loss_scaling.place(backend, (factor, 5.0))}
    step = train_step(model, MeanSquaredError())
    params, state, (value,) = step(model.params, state, inputs, aims, None, None, 1.0)
    return model, params, state, value


def test_small_gradients_survive_scaled(backend: Backend) -> None:
    needs(backend, "float16")
    _, _, state, value = one_step(backend, None)
    np.testing.assert_array_equal(to_numpy(state["dense"]["W"]["master"]), np.zeros((6, 2)))
    assert_same_kind(value, backend, "float32", ())
    _, params, state, _ = one_step(backend, 2.0**12)
    np.testing.assert_array_equal(to_numpy(state["dense"]["W"]["master"]), np.full((6, 2), -(2.0**-26)))
    assert loss_scaling.read(backend, state[LOSS_SCALE]) == (2.0**12, 6.0)
    assert_same_kind(params["dense"]["W"], backend, "float16", (6, 2))


def test_a_step_that_overflows_is_left_out(backend: Backend) -> None:
    needs(backend, "float16")
    with np.errstate(over="ignore", invalid="ignore"):
        model, params, state, value = one_step(backend, 2.0**43)
    np.testing.assert_array_equal(to_numpy(params["dense"]["W"]), to_numpy(model.params["dense"]["W"]))
    assert loss_scaling.read(backend, state.pop(LOSS_SCALE)) == (loss_scaling.LARGEST, 0.0)
    assert np.isfinite(to_numpy(value))
    for key, own in model.optimizer_state["dense"]["W"].items():
        np.testing.assert_array_equal(to_numpy(state["dense"]["W"][key]), to_numpy(own))


def test_fit_finds_the_factor_and_learns(backend: Backend) -> None:
    """Targets of thousands overflow at first; the factor falls until they fit."""
    needs(backend, "float16")
    model = network(backend)
    history = model.fit(X, 4000.0 * Y[:, :2], 6, 16, optimizer=SGD(1e-4))
    assert 1.0 <= model.loss_scale[0] < loss_scaling.INITIAL[0]
    assert history["loss"][-1] < history["loss"][0]
    assert model.steps == 18
    model.set_optimizer("adam")
    assert model.loss_scale == loss_scaling.INITIAL


def test_only_float16_is_scaled(backend: Backend) -> None:
    needs(backend, "bfloat16")
    model = network(backend, "bfloat16")
    model.fit(X, 1e10 * Y, 2, 16, optimizer=SGD(1e-12))
    assert model.loss_scale == loss_scaling.INITIAL


# ------------------------------------------------------------------------------------- whole trainings


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_digits_in_16_bits(backend: Backend, dtype: str) -> None:
    needs(backend, dtype)
    if backend.name in ("numpy", "array_api_strict") and str(backend) != "numpy":
        pytest.skip("float16 on NumPy is slow: once is enough")
    images, labels = load_digits()
    scores = {}
    for name in (dtype, "float32"):
        model = Sequential([Dense(32, activation="relu"), Dense(10)], dtype=name, backend=backend, rng=0)
        model.fit(images[:1400], labels[:1400], 8, 100, optimizer=Adam(1e-2))
        scores[name] = model.evaluate(images[1400:], labels[1400:], metrics=["accuracy"])
        assert str(model.weights["dense.W"].dtype).endswith(name)
    assert scores["float32"]["accuracy"] > 0.88
    assert scores[dtype]["accuracy"] > scores["float32"]["accuracy"] - 0.02
    assert scores[dtype]["loss"] < 1.1 * scores["float32"]["loss"]


def test_a_training_in_float16_goes_on_to_the_same_bits(backend: Backend, tmp_path: Path) -> None:
    needs(backend, "float16")
    through, first = network(backend), network(backend)
    for model in (through, first):
        model.fit(X, 2000.0 * Y, 2, 16, optimizer=Adam(1e-2))
    assert first.loss_scale != loss_scaling.INITIAL
    save(first, tmp_path / "model", training=True)
    resumed = load(tmp_path / "model", backend)
    assert resumed.loss_scale == first.loss_scale
    for model in (through, resumed):
        model.fit(X, 2000.0 * Y, 3, 16)
    assert resumed.loss_scale == through.loss_scale
    for name, value in through.weights.items():
        np.testing.assert_array_equal(to_numpy(resumed.weights[name]), to_numpy(value))
