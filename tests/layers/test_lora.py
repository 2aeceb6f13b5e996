"""Adapters: nothing changes at first, only they learn, and merged they are a plain layer again."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dense_xp import (
    L2,
    SGD,
    Adam,
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
    LoRA,
    MaxNorm,
    Sequential,
    add_lora,
    describe,
    load,
    merge_lora,
    save,
    set_backend,
)
from dense_xp.backend import Backend, to_numpy
from dense_xp.evidence.parity import layer_case, measure
from dense_xp.evidence.rounding import PRECISIONS, gamma
from dense_xp.layers.layer import Layer
from dense_xp.saving import ModelFileError
from dense_xp.training.fused.step import FusedStep
from tests.comparing import UNIT_ROUNDOFF, assert_close, assert_same_kind
from tests.layers.layer_gradients import assert_gradient

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 6)).astype("float32")
LABELS = RNG.integers(0, 4, size=30)


def adapted(backend: Backend, dtype: str = "float64", rank: int = 2, **kwargs: Any) -> LoRA:
    """An adapter that has learned something."""
    dense = Dense(5, (6,), backend=backend, dtype=dtype, rng=0, **kwargs)
    dense.initialize()
    layer = LoRA(dense, rank, alpha=3.0)
    layer.set_weights({"B": np.random.default_rng(1).normal(size=(rank, 5))})
    return layer


def network(backend: Any = "numpy", dtype: str = "float32") -> Sequential:
    layers = [
        LayerNorm(),
        Dense(8, activation="gelu"),
        Sequential([BatchNorm(), Dense(5, use_bias=False), Dropout(0.2)]),
        Dense(4, name="head"),
    ]
    return Sequential(layers, input_shape=(6,), backend=backend, dtype=dtype, rng=0)


def host(model: Layer) -> dict[str, Any]:
    return {name: to_numpy(value).copy() for name, value in model.weights.items()}


@pytest.mark.parametrize("activation", [None, "tanh"])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 6), (7, 6), (2, 3, 6)])
def test_gradients(backend: Backend, shape: tuple[int, ...], use_bias: bool, activation: Any) -> None:
    layer = adapted(backend, use_bias=use_bias, activation=activation)
    assert_gradient(layer, backend, np.random.default_rng(2).normal(size=shape))
    x, grad_Y = backend.asarray(np.ones(shape)), backend.asarray(np.ones((*shape[:-1], 5)))
    _, cache = layer.forward(layer.params, x)
    grads = layer.backward(layer.params, cache, grad_Y)[1]
    assert set(grads) == {"A", "B"}
    alone = layer.parameter_gradients(layer.params, cache, grad_Y)
    for name, grad in grads.items():
        np.testing.assert_array_equal(to_numpy(alone[name]), to_numpy(grad))


@pytest.mark.parametrize("activation", [None, "tanh"])
def test_it_is_the_formula(backend: Backend, activation: Any) -> None:
    layer = adapted(backend, activation=activation)
    w = host(layer)
    Z = X @ w["W"] + w["w0"] + 3.0 / 2 * (X @ w["A"]) @ w["B"]
    assert_close(layer.forward_pass(backend.asarray(X)), np.tanh(Z) if activation else Z, backend)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_number_is_within_its_bound(backend: Backend, dtype: str) -> None:
    if not hasattr(backend.xp, dtype):
        pytest.skip(f"{backend} has no {dtype}")
    rng = np.random.default_rng(0)
    for shape in ((17, 31), (3, 5, 11)):
        case = layer_case(LoRA(Dense(7, activation="tanh"), 3), rng.normal(size=shape), rng)
        result = measure(case, backend, dtype)
        assert result.share <= 1, result
        assert result.compared == np.prod(shape) * (1 + 7 / shape[-1]) + 3 * (shape[-1] + 7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_nothing_changes_at_first(backend: Backend, dtype: str) -> None:
    if not hasattr(backend.xp, dtype):
        pytest.skip(f"{backend} has no {dtype}")
    dense = Dense(5, (6,), activation="relu", backend=backend, dtype=dtype, rng=0)
    dense.initialize()
    layer = LoRA(dense, 3)
    expected = dense.forward_pass(backend.asarray(X, dtype))
    assert_same_kind(layer.forward_pass(backend.asarray(X, dtype)), backend, dtype, (30, 5))
    np.testing.assert_array_equal(to_numpy(layer.forward_pass(backend.asarray(X, dtype))), to_numpy(expected))
    for name, shape in (("A", (6, 3)), ("B", (3, 5))):
        assert_same_kind(layer.weights[name], backend, dtype, shape)
    assert layer.parameters() == 6 * 3 + 3 * 5


def test_where_A_starts() -> None:
    dense = Dense(2000, (400,), rng=0)
    dense.initialize()
    A = to_numpy(LoRA(dense, 300).params["A"])
    assert A.std() == pytest.approx(1 / 20, rel=0.02)
    assert A.mean() == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_merged_it_is_a_plain_layer_within_the_rounding_bound(backend: Backend, dtype: str) -> None:
    rng = np.random.default_rng(3)
    dense = Dense(13, (37,), backend=backend, dtype=dtype, rng=1, name="mine").constrained(W=MaxNorm(3.0))
    dense.initialize("adam")
    layer = LoRA(dense, 4, alpha=2.0)
    layer.set_weights({"B": rng.normal(size=(4, 13)), "w0": rng.normal(size=(1, 13))})
    merged = layer.merge()
    assert type(merged) is Dense
    assert merged.get_config() == dense.get_config()
    x = rng.normal(size=(50, 37))
    one, two = (to_numpy(each.forward_pass(backend.asarray(x, dtype))) for each in (layer, merged))
    w = {name: np.abs(value).astype("float64") for name, value in host(layer).items()}
    size = np.abs(x) @ (w["W"] + 0.5 * w["A"] @ w["B"]) + w["w0"]
    bound = 2 * gamma(37 + 4 + 6, PRECISIONS[dtype].u) * size
    assert np.all(np.abs(one.astype("float64") - two) <= bound)
    exact = host(layer)["W"].astype("float64") + 0.5 * host(layer)["A"].astype("float64") @ host(layer)["B"]
    np.testing.assert_allclose(host(merged)["W"], exact, rtol=0, atol=16 * UNIT_ROUNDOFF[dtype] * np.abs(exact).max())
    np.testing.assert_array_equal(host(merged)["w0"], host(layer)["w0"])
    assert_same_kind(merged.W, backend, dtype, (37, 13))


def test_only_the_adapter_learns(backend: Backend) -> None:
    dense = Dense(4, (6,), backend=backend, rng=0)
    dense.initialize()
    layer = LoRA(dense, 2)
    layer.set_optimizer(Adam(0.01))
    before, of_the_dense = host(layer), host(dense)
    for _ in range(2):  # the gradient of A is zero in the first step, since B is
        layer.forward_pass(backend.asarray(X))
        layer.backward_pass(backend.asarray(np.ones((30, 4), "float32")))
    after = host(layer)
    for name in ("W", "w0"):
        np.testing.assert_array_equal(after[name], before[name])
        np.testing.assert_array_equal(host(dense)[name], of_the_dense[name])
    for name in ("A", "B"):
        assert not np.array_equal(after[name], before[name])
    assert set(layer.optimizer_state) == {"A", "B"}


def test_a_whole_model(backend: Backend, tmp_path: Path) -> None:
    model = network(backend)
    model.fit(X, LABELS, 2, 10)
    before = host(model)
    drawn = copy.deepcopy(model.rng.bit_generator.state)
    thin = add_lora(model, 3, alpha=6.0)
    batch = backend.asarray(X, "float32")
    outputs = [to_numpy(one.forward(one.params, batch)[0]) for one in (thin, model)]
    np.testing.assert_array_equal(*outputs)
    np.testing.assert_allclose(thin.predict(X), model.predict(X), atol=1e-6)
    assert [type(layer).__name__ for layer in thin.layers] == ["LayerNorm", "LoRA", "Sequential", "LoRA"]
    assert {layer.scale for layer in (thin.layers[1], thin.layers[3], thin.layers[2].layers[1])} == {2.0}
    thin.fit(X, LABELS, 20, 10, optimizer=Adam(0.05))
    after = host(thin)
    moved = {name for name in after if name not in before or not np.array_equal(after[name], before[name])}
    learned = {f"{key}.{name}" for key in ("dense", "sequential.dense", "head") for name in "AB"}
    assert moved - {"sequential.batch_norm.running_mean", "sequential.batch_norm.running_variance"} == learned
    assert thin.evaluate(X, LABELS)["loss"] < model.evaluate(X, LABELS)["loss"]
    for name, value in host(model).items():  # the model that it was made from is what it was
        np.testing.assert_array_equal(value, before[name])
    assert model.rng.bit_generator.state == drawn
    plain = merge_lora(thin)
    assert [type(layer).__name__ for layer in plain.layers] == [type(layer).__name__ for layer in model.layers]
    assert list(plain.weights) == list(model.weights)
    np.testing.assert_allclose(plain.predict(X), thin.predict(X), atol=1e-5)
    for one in (thin, plain):
        save(one, tmp_path / "model")
        loaded = load(tmp_path / "model", backend)
        np.testing.assert_array_equal(loaded.predict(X), one.predict(X))
        assert loaded.parameters() == one.parameters()


def test_the_step_in_its_own_memory_is_the_pure_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(dtype="float64")
    model.initialize()
    one, two = add_lora(model, 2), add_lora(model, 2)
    two.set_weights(one.weights)
    one.set_optimizer("adam")
    assert FusedStep.serves(one, 2)
    one.fit(X, LABELS, 2, 8, rng=0, optimizer="adam")
    monkeypatch.setattr(FusedStep, "serves", lambda *_: False)
    two.fit(X, LABELS, 2, 8, rng=0, optimizer="adam")
    for name, value in host(one).items():
        np.testing.assert_allclose(host(two)[name], value, rtol=1e-9, atol=1e-12)


def test_adapters_in_a_model_that_is_not_there_yet(backend: Backend) -> None:
    layers = [LoRA(Dense(8, activation="relu"), 2), LoRA(Dense(4, rng=5), 2).regularized(B=L2(0.1))]
    model = Sequential(layers, rng=0, backend=backend)
    history = model.fit(X, LABELS, 5, 10, optimizer=SGD(0.1))
    assert history["loss"][-1] < history["loss"][0]
    assert model.parameters() == 2 * (6 + 8) + 2 * (8 + 4)
    again = Sequential.from_config(model.get_config())
    assert again.get_config() == model.get_config()


def test_a_later_initialize_keeps_what_was_trained(backend: Backend) -> None:
    dense = Dense(4, (6,), backend=backend, rng=0)
    dense.initialize()
    layer = LoRA(dense, 2, rng=3)
    trained = host(dense)
    dense.W = np.zeros((6, 4))  # what becomes of the dense layer is of no matter
    model = Sequential([layer], backend=backend, rng=7)
    model.initialize("adam")
    np.testing.assert_array_equal(host(layer)["W"], trained["W"])


def test_it_lives_where_the_dense_layer_does(backend: Backend) -> None:
    dense = Dense(4, (6,), rng=0)
    set_backend(backend)
    dense.initialize()
    set_backend("numpy")
    layer = LoRA(dense, 2)
    assert layer.backend == backend
    moved = pickle.loads(pickle.dumps(layer)).to("numpy")
    for name, value in host(layer).items():
        np.testing.assert_array_equal(moved.weights[name], value)
    np.testing.assert_allclose(moved.merge().forward_pass(X), moved.forward_pass(X), atol=1e-6)


def test_two_layers_of_a_model_start_differently() -> None:
    model = Sequential([Dense(6), Dense(6)], input_shape=(6,), rng=0)
    model.initialize()
    before = copy.deepcopy(model.rng.bit_generator.state)
    one, two = (layer.params["A"] for layer in add_lora(model, 2).layers)
    assert not np.array_equal(one, two)
    assert model.rng.bit_generator.state == before  # the model's own draws go on as if nothing had been
    np.testing.assert_array_equal(add_lora(model, 2).layers[0].params["A"], one)


def test_a_layer_too_small_for_the_rank_gets_less_of_it_and_the_same_scale() -> None:
    model = Sequential([Dense(8), Dense(1)], input_shape=(6,), rng=0)
    model.initialize()
    first, last = add_lora(model, 4, alpha=2.0).layers
    assert (first.rank, first.scale, last.rank, last.scale) == (4, 0.5, 1, 0.5)


class Own(Dense):
    """A subclass may compute something else."""


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: LoRA(LayerNorm(), 2), TypeError, "LoRA adapts a Dense layer, and this is a LayerNorm"),  # type: ignore[arg-type]
        (lambda: LoRA(Own(3), 2), TypeError, "this is a Own"),
        (lambda: LoRA(Dense(3), 0), ValueError, "rank must be a positive integer, and is 0"),
        (lambda: LoRA(Dense(3), True), ValueError, "rank"),
        (lambda: LoRA(Dense(3), 2, alpha=0.0), ValueError, "alpha must be a positive number, and is 0.0"),
        (lambda: LoRA(Dense(3), 2, alpha=float("inf")), ValueError, "alpha"),
        (lambda: LoRA(Dense(3, (9,)), 4).initialize(), ValueError, r"rank is 4, .* smaller side of W, \(9, 3\)"),
        (lambda: LoRA(Dense(3, (9,)), 2).merge(), RuntimeError, "not initialized"),
        (lambda: add_lora(Dense(3, (9,)), 2), RuntimeError, "not initialized"),
        (lambda: add_lora(network_built(), 0), ValueError, "rank"),
    ],
)
def test_arguments_out_of_range(make: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        make()


def network_built() -> Sequential:
    model = network()
    model.initialize()
    return model


def test_a_file_asks_for_no_more_than_it_holds(tmp_path: Path) -> None:
    from tests.saving.test_saving import rewritten

    dense = Dense(3, (2,), rng=0)
    dense.initialize()
    path = tmp_path / "layer"
    save(LoRA(dense, 1), path)
    assert describe(path)["shapes"] == {"A": (2, 1), "B": (1, 3), "W": (2, 3), "w0": (1, 3)}
    rewritten(path, lambda about: about["config"].update(rank=10**12))
    with pytest.raises(ModelFileError, match="rank is 1000000000000"):
        load(path)
    rewritten(path, lambda about: (about["config"].update(rank=1), about["config"]["dense"].update(n_units=10**12)))
    with pytest.raises(ModelFileError, match=r"has shape \(2, 3\), and the layer needs \(2, 1000000000000\)"):
        load(path)
