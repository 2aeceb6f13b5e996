"""Eight bits: the error bound of every output, a quarter of the memory and of the file, and nothing that learns."""

from __future__ import annotations

import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dense_xp import (
    Adam,
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
    QuantizedDense,
    Sequential,
    describe,
    load,
    quantize,
    save,
)
from dense_xp.backend import Backend, to_numpy
from dense_xp.evidence.rounding import PRECISIONS, gamma
from dense_xp.layers import quantization
from dense_xp.saving import ModelFileError
from dense_xp.training.prediction import predict
from tests.comparing import assert_close, assert_same_kind
from tests.layers.layer_gradients import assert_gradient

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 6)).astype("float32")
LABELS = RNG.integers(0, 4, size=30)


def pair(backend: Backend, n_in: int, n_units: int, dtype: str = "float32", **kwargs: Any) -> tuple[Dense, Any]:
    """A dense layer whose columns differ in size, and the same in eight bits."""
    dense = Dense(n_units, (n_in,), backend=backend, dtype=dtype, rng=0, **kwargs)
    dense.initialize("adam")
    rng = np.random.default_rng(1)
    dense.W = rng.normal(size=(n_in, n_units)) * 10.0 ** rng.uniform(-2, 2, size=n_units)
    if dense.use_bias:
        dense.w0 = rng.normal(size=(1, n_units))
    return dense, quantize(dense)


def network(backend: Any = "numpy") -> Sequential:
    layers = [
        LayerNorm(),
        Dense(8, activation="gelu"),
        Sequential([BatchNorm(), Dense(5, use_bias=False), Dropout(0.2)]),
        Dense(4, name="head"),
    ]
    model = Sequential(layers, input_shape=(6,), backend=backend, rng=0)
    model.fit(X, LABELS, 2, 10)
    return model


@pytest.mark.parametrize("block", [1, 64, 1 << 20])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_output_is_within_its_bound(
    backend: Backend, dtype: str, use_bias: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """|error| ≤ ½ s Σ|x|, and the rounding of both computations; and it needs that much."""
    if not hasattr(backend.xp, dtype):
        pytest.skip(f"{backend} has no {dtype}")
    monkeypatch.setattr(quantization, "BLOCK", block)
    dense, layer = pair(backend, 37, 11, dtype, use_bias=use_bias)
    x = backend.asarray(np.random.default_rng(2).normal(size=(50, 37)), dtype)
    check_output(layer.forward_pass(x), dense, layer, x, dtype)
    check_output(predict(layer, x[:7, :]), dense, layer, x[:7, :], dtype)


def check_output(Y: Any, dense: Dense, layer: QuantizedDense, x: Any, dtype: str) -> None:
    assert_same_kind(Y, dense.built(), dtype, (x.shape[0], 11))
    x, W, s = (to_numpy(a).astype("float64") for a in (x, dense.W, layer.weights["scale"]))
    w0 = to_numpy(dense.w0).astype("float64") if dense.use_bias else np.zeros((1, 11))
    exact = x @ W + w0
    quantized = 0.5 * s * np.abs(x).sum(axis=1, keepdims=True)
    u = PRECISIONS[dtype].u
    wide = min(u, PRECISIONS["float32"].u)  # products of 16 bits are taken in 32, and rounded once
    size = np.abs(x) @ np.abs(W) + quantized + np.abs(w0)
    error = np.abs(to_numpy(Y).astype("float64") - exact)
    assert np.all(error <= quantized + (gamma(37 + 2, wide) + gamma(1, u) * (u > wide)) * size)
    assert error.max() > 0.05 * quantized.max()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_are_whole_numbers_of_their_scale(backend: Backend, dtype: str) -> None:
    dense, layer = pair(backend, 20, 7, dtype)
    W = to_numpy(dense.W).astype("float64")
    W[:, 3] = 0.0
    dense.W = W
    layer = quantize(dense)
    W = to_numpy(dense.W).astype("float64")
    assert layer.weights["W"].dtype == backend.xp.int8
    Q, s = to_numpy(layer.weights["W"]).astype(int), to_numpy(layer.weights["scale"]).astype("float64")
    assert np.all(np.abs(Q).max(axis=0) == np.where(s > 0, 127, 0))
    assert np.all(np.abs(W - Q * s) <= 0.5 * s * (1 + 1e-12))
    np.testing.assert_allclose(s, np.abs(W).max(axis=0, keepdims=True) / 127, rtol=PRECISIONS[dtype].u)
    np.testing.assert_array_equal(to_numpy(layer.weights["w0"]), to_numpy(dense.w0))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_products_of_sixteen_bits_are_taken_in_thirty_two(backend: Backend, dtype: str) -> None:
    """784 · 127 is more than float16 holds."""
    if not hasattr(backend.xp, dtype):
        pytest.skip(f"{backend} has no {dtype}")
    dense = Dense(2, (784,), backend=backend, dtype=dtype)
    dense.initialize()
    dense.W = np.full((784, 2), 0.01)
    layer = quantize(dense)
    exact = 784 * 127 * float(layer.weights["scale"][0, 0])
    Y = layer.forward_pass(backend.asarray(np.ones((1, 784)), dtype))
    np.testing.assert_allclose(to_numpy(Y), exact, rtol=PRECISIONS[dtype].u)
    back = layer.backward_pass(backend.asarray(np.full((1, 2), 600.0), dtype))
    np.testing.assert_allclose(to_numpy(back), 1200 * exact / 784, rtol=PRECISIONS[dtype].u)


def test_weights_that_are_whole_numbers_lose_nothing(backend: Backend) -> None:
    dense = Dense(3, (40,), backend=backend, rng=0)
    dense.initialize()
    W = np.random.default_rng(3).integers(-127, 128, size=(40, 3)) * np.asarray([0.5, 1.0, 4.0])
    W[0] = 127 * np.asarray([0.5, 1.0, 4.0])
    dense.W = W
    x = backend.asarray(np.random.default_rng(4).integers(-9, 9, size=(5, 40)), "float32")
    np.testing.assert_array_equal(to_numpy(quantize(dense).forward_pass(x)), to_numpy(dense.forward_pass(x)))


@pytest.mark.parametrize("block", [1, 64, 1 << 20])
@pytest.mark.parametrize("activation", [None, "tanh"])
@pytest.mark.parametrize("shape", [(1, 6), (7, 6), (2, 3, 6)])
def test_the_gradient_of_the_input(
    backend: Backend, shape: tuple[int, ...], activation: Any, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "BLOCK", block)
    _, layer = pair(backend, 6, 5, "float64", activation=activation)
    layer.set_weights({"scale": to_numpy(layer.weights["scale"]) / 100})  # tanh must not saturate
    x = np.random.default_rng(2).normal(size=shape)
    assert_close(layer.forward_pass(backend.asarray(x)), expected(layer, x, activation), backend)
    layer.set_optimizer("sgd")
    assert layer.parameters() == 0
    before = layer.params
    layer.backward_pass(backend.asarray(np.ones((*shape[:-1], 5))))
    assert layer.params is before
    weights = {name: to_numpy(value) for name, value in layer.weights.items()}
    assert_gradient(_Widened(layer), backend, x)
    for name, value in weights.items():
        np.testing.assert_array_equal(to_numpy(layer.weights[name]), value)


def expected(layer: Any, x: Any, activation: Any) -> Any:
    w = {name: to_numpy(value).astype("float64") for name, value in layer.weights.items()}
    Z = x @ (w["W"] * w["scale"]) + w["w0"]
    return np.tanh(Z) if activation else Z


class _Widened:
    """The layer as `assert_gradient` wants it: with parameters that can be moved to any dtype."""

    def __init__(self, layer: QuantizedDense) -> None:
        self.layer, self.params = layer, {}

    def forward(self, params: Any, X: Any, **kwargs: Any) -> Any:
        return self.layer.forward(self.layer.params, X, **kwargs)

    def backward(self, params: Any, cache: Any, grad_Y: Any) -> Any:
        return self.layer.backward(self.layer.params, cache, grad_Y)


def test_a_whole_model_through_everything(backend: Backend, tmp_path: Path) -> None:
    model = network(backend)
    before = {name: to_numpy(value).copy() for name, value in model.weights.items()}
    small = quantize(model)
    kinds = ["LayerNorm", "QuantizedDense", "Sequential", "QuantizedDense"]
    assert [type(layer).__name__ for layer in small.layers] == kinds
    np.testing.assert_allclose(small.predict(X), model.predict(X), atol=0.1)
    assert not np.array_equal(small.predict(X), model.predict(X))
    for name, value in model.weights.items():
        np.testing.assert_array_equal(to_numpy(value), before[name])
    save(small, tmp_path / "model")
    np.testing.assert_allclose(load(tmp_path / "model", "numpy").predict(X), small.predict(X), atol=1e-5)
    copies = [
        load(tmp_path / "model", backend),
        pickle.loads(pickle.dumps(small)),
        quantize(model).to(backend),
        quantize(model).to("numpy").to(backend),
    ]
    again = Sequential.from_config(small.get_config())
    again.initialize()
    again.set_weights(small.weights)
    for other in (*copies, again):
        np.testing.assert_array_equal(to_numpy(other.predict(X)), small.predict(X))
        for name, value in small.weights.items():
            assert other.weights[name].dtype == value.dtype
    assert small.evaluate(X, LABELS, metrics=["accuracy"]).keys() == {"loss", "accuracy"}
    small.summary()


def test_few_rows_are_multiplied_by_the_integers_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the layer stands, and through the weights that it has now; many rows, and subclasses, as ever."""
    numba = pytest.importorskip("dense_xp.kernels.numba")
    product, rows = numba.int8_product, []
    monkeypatch.setattr(numba, "int8_product", lambda X, Q, out: (rows.append(len(X)), product(X, Q, out)))
    small = quantize(network())
    many = np.tile(X, (2, 1))
    for x, counted in ((X[:1], [1] * 3), (X, [30] * 3), (X[:24].reshape(2, 3, 4, 6), [24] * 3), (many, [])):
        rows.clear()
        Y = small.predict(x)
        assert rows == counted
        np.testing.assert_allclose(Y, small.forward_pass(x, training=False), rtol=1e-5, atol=1e-5)
    small.evaluate(X, LABELS)
    assert rows == [30] * 3
    small.set_weights({"head.W": np.zeros((5, 4), "int8")})
    np.testing.assert_array_equal(small.predict(X), np.tile(small.weights["head.w0"], (30, 1)))

    class Twice(QuantizedDense):
        def forward(self, params: Any, X: Any, **kwargs: Any) -> Any:
            Y, cache = super().forward(params, X, **kwargs)
            return 2 * Y, cache

    _, layer = pair(small.built(), 6, 5)
    other = Twice(5, (6,), backend="numpy")
    other.initialize()
    other.set_weights(layer.weights)
    np.testing.assert_allclose(predict(other, X), 2 * predict(layer, X), rtol=1e-4)


def test_many_threads_predict_the_same_bits() -> None:
    model = Sequential([Dense(700, activation="relu"), Dense(5)], input_shape=(6000,), rng=0)
    model.initialize()
    small = quantize(model)
    x = np.random.default_rng(0).normal(size=(32, 1, 6000)).astype("float32")
    alone = [small.predict(row) for row in x]
    with ThreadPoolExecutor(16) as pool:
        np.testing.assert_array_equal(list(pool.map(small.predict, x)), alone)


def test_what_is_left_of_a_model_may_learn(backend: Backend) -> None:
    """A layer before one of eight bits, and one behind; the integers are no one's to move."""
    small = quantize(network(backend))
    before = {name: to_numpy(value).copy() for name, value in small.weights.items()}
    history = small.fit(X, LABELS, 30, 10, optimizer=Adam(0.05))
    assert history["loss"][-1] < history["loss"][0]
    changed = {name for name, value in small.weights.items() if not np.array_equal(to_numpy(value), before[name])}
    assert {name.rpartition(".")[0] for name in changed} == {"layer_norm", "sequential.batch_norm"}
    alone = Sequential([Dense(5), Sequential([Dense(4)])], input_shape=(6,), backend=backend, rng=0)
    alone.initialize()
    losses = quantize(alone).fit(X, LABELS, 2)["loss"]  # nothing learns, and nothing breaks
    assert losses[0] == pytest.approx(losses[1])


def test_the_file_is_a_quarter(tmp_path: Path) -> None:
    model = Sequential([Dense(512, activation="relu"), Dense(512)], input_shape=(512,), rng=0)
    model.initialize()
    save(model, tmp_path / "large")
    save(quantize(model), tmp_path / "small")
    sizes = [(tmp_path / name).stat().st_size for name in ("large", "small")]
    assert sizes[1] < 0.26 * sizes[0]
    assert describe(tmp_path / "small")["shapes"]["dense.scale"] == (1, 512)


def test_the_memory_of_a_prediction() -> None:
    """The integers, one block of columns, and the output: W is never there as a whole in 32 bits."""
    dense = Dense(4096, (2048,), rng=0)
    dense.initialize()
    layer = quantize(dense)
    assert layer.weights["W"].nbytes == 2048 * 4096
    x = np.ones((16, 2048), "float32")
    layer.forward_pass(x)
    tracemalloc.start()
    try:
        layer.forward_pass(x)
        forward = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        layer.backward_pass(np.ones((16, 4096), "float32"))
        backward = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert forward < 2.5 * 4 * quantization.BLOCK
    assert backward < 3.5 * 4 * quantization.BLOCK
    assert 0.13 * 4 * dense.W.size > 4 * quantization.BLOCK


def test_integers_are_not_rounded_by_set_weights(backend: Backend) -> None:
    _, layer = pair(backend, 6, 5)
    before = layer.params
    for wrong in (np.ones((6, 5)), np.ones((6, 5), "int32"), np.ones((6, 5), "uint8")):
        with pytest.raises(TypeError, match=r"QuantizedDense.W holds .*int8, and the new value .*quantize"):
            layer.set_weights({"scale": np.ones((1, 5)), "W": wrong})
    assert layer.params is before
    layer.set_weights({"W": np.ones((6, 5), "int8"), "scale": np.ones((1, 5))})
    assert layer.weights["W"].dtype == backend.xp.int8
    assert layer.weights["scale"].dtype == backend.dtype("float32")


def test_made_by_hand_it_starts_with_zeros(backend: Backend) -> None:
    layer = QuantizedDense(3, activation="relu", use_bias=False, backend=backend)
    assert np.all(to_numpy(layer.forward_pass(backend.asarray(X))) == 0.0)
    assert layer.weights["W"].dtype == backend.xp.int8
    assert QuantizedDense.from_config(layer.get_config()).get_config() == layer.get_config()
    with pytest.raises(ValueError, match="n_units must be a positive integer"):
        QuantizedDense(0)
    with pytest.raises(RuntimeError, match="not initialized"):
        quantize(Dense(3, (2,)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            lambda host: host.update({"weight:W": np.ones((6, 4), "float32")}),
            "'W' is float32, and the layer needs integers",
        ),
        (
            lambda host: host.update({"weight:w0": np.ones((1, 4), "int8")}),
            "'w0' is int8, and the layer needs float32",
        ),
        (lambda host: host.update({"weight:W": np.ones((6, 4), "int16")}), "'weight:W' of dtype int16"),
        (lambda host: host.update({"optimizer:W": np.ones((6, 4), "int8")}), "'optimizer:W' of dtype int8"),
    ],
)
def test_files_that_do_not_fit_together(tmp_path: Path, arrays: Any, message: str) -> None:
    from tests.saving.test_saving import rewritten

    path = tmp_path / "layer"
    dense = Dense(4, (6,), rng=0)
    dense.initialize()
    save(quantize(dense), path)
    rewritten(path, lambda about: None, arrays)
    with pytest.raises(ModelFileError, match=message):
        load(path)
