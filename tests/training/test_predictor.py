"""Prediction: the same numbers as the pure functions, the same bits for any rows and threads, the weights of now."""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dense_xp import (
    Adam,
    BatchNorm,
    Dense,
    Dropout,
    Layer,
    LayerNorm,
    Sequential,
    add_lora,
    get_backend,
    load,
    quantize,
    save,
    use_backend,
)
from dense_xp.backend import Backend, to_numpy
from dense_xp.kernels import numpy as numpy_kernels
from dense_xp.layers.activations import ReLU
from dense_xp.training import predictor as module
from tests.conftest import REQUIRED
from tests.kernels.kernel_sets import kernel_set, used_by_trainings

RNG = np.random.default_rng(2)
NAMES = ["dense", "no bias", "activations", "norms", "nested", "subclass", "no dense", "lora", "int8"]
SETS = ["numpy", "numba"]


def panels(name: str) -> Any:
    return kernel_set(name)[0].Panels


def drawn(widths: list[int], dtype: str, bias: bool = True) -> list[tuple[Any, Any, bool]]:
    layers = []
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        W = (RNG.normal(size=(n_in, n_out)) / np.sqrt(n_in)).astype(dtype)
        w0 = RNG.normal(size=(1, n_out)).astype(dtype) if bias else None
        layers.append((W, w0, i % 2 == 0))
    return layers


def bounded(X: Any, layers: Any) -> tuple[Any, Any]:
    """Return the output in float64 and a bound of its error: γ of the terms, and what comes with the inputs."""
    unit = np.finfo(layers[0][0].dtype).eps / 2
    value, error = X.astype("float64"), np.zeros(X.shape)
    for W, w0, rectified in layers:
        W = W.astype("float64")
        w0 = 0.0 if w0 is None else w0.astype("float64")
        terms = (len(W) + 2) * unit
        error = error @ np.abs(W) + terms * ((np.abs(value) + error) @ np.abs(W) + np.abs(w0))
        value = value @ W + w0
        value = np.maximum(value, 0.0) if rectified else value
    return value, error


# ------------------------------------------------------------------ the kernel


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "widths", [[1, 1], [5, 3], [64, 100, 10], [30, 64, 64, 1], [17, 129, 65], [2500, 70, 3]], ids=str
)
def test_outputs_are_within_the_bound(name: str, dtype: str, widths: list[int]) -> None:
    for bias in (True, False):
        layers = drawn(widths, dtype, bias)
        kernel = panels(name)(layers)
        for n in (0, 1, 2, 5, 6, 7, 13, 97, 400):
            X = RNG.normal(size=(n, widths[0])).astype(dtype)
            Y = kernel(X)
            value, error = bounded(X, layers)
            assert Y.shape == (n, widths[-1])
            assert Y.dtype == dtype
            assert (np.abs(Y - value) <= error).all()


@pytest.mark.parametrize("widths", [[64, 100, 10], [300, 257, 31], [1500, 40]], ids=str)
def test_bits_are_the_same_for_any_rows_tiles_and_threads(widths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    numba_panels = pytest.importorskip("dense_xp.kernels.numba_panels")

    layers = drawn(widths, "float32")
    X = RNG.normal(size=(203, widths[0])).astype("float32")
    monkeypatch.setattr(numba_panels, "SHARE", 1 << 62)
    alone = panels("numba")(layers)(X)
    single = np.concatenate([panels("numba")(layers)(X[i : i + 1]) for i in range(20)])
    assert np.array_equal(single, alone[:20])
    monkeypatch.setattr(numba_panels, "SHARE", 1)  # any call asks for help
    monkeypatch.setattr(numba_panels, "SMALL", 1)
    kernel = panels("numba")(layers)
    for n in (1, 2, 7, 8, 9, 40, 48, 49, 96, 97, 203):
        for _ in range(20):
            assert np.array_equal(kernel(X[:n]), alone[:n])
            assert np.array_equal(kernel.now(X[:n]), alone[:n])


@pytest.mark.parametrize("name", SETS)
def test_what_is_not_finite_passes(name: str) -> None:
    layers = [(np.eye(3, dtype="float32"), None, True)]
    X = np.array([[np.nan, 1.0, 0.0], [np.inf, 1.0, -1.0], [-np.inf, -1.0, 2.0]], dtype="float32")
    with np.errstate(all="ignore"):
        wanted = np.maximum(X @ layers[0][0], 0.0)
    assert np.array_equal(panels(name)(layers)(X), wanted, equal_nan=True)


@pytest.mark.parametrize("how", ["C", "F", "strided"])
@pytest.mark.parametrize("n_in", [40, 1300])  # few weights and many
def test_weights_that_were_written_into_are_seen(how: str, n_in: int) -> None:
    W = np.asarray(RNG.normal(size=(n_in, 100)), dtype="float32", order="F" if how == "F" else "C")
    W = np.repeat(W, 2, axis=1)[:, ::2] if how == "strided" else W
    w0 = RNG.normal(size=(1, 100)).astype("float32")
    X = RNG.normal(size=(60, n_in)).astype("float32")
    kernel = panels("numba")([(W, w0, False), (np.eye(100, dtype="float32"), None, False)])
    before = kernel.now(X)
    assert np.array_equal(before, kernel(X))
    for array, place in ((W, (0, 0)), (W, (n_in // 2, 5)), (W, (n_in - 1, 99)), (w0, (0, 98))):
        array[place] += np.float32(0.5)
        for n in (1, 7, 8, 9, 60):
            new = kernel.now(X[:n])
            assert np.array_equal(new, panels("numba")([(W, w0, False)])(X[:n]))
            assert not np.array_equal(new, before[:n])
    W[:] = W[::-1].copy()
    assert np.array_equal(kernel.now(X), panels("numba")([(W, w0, False)])(X))


# ------------------------------------------------------------------ models


class Doubles(Layer):
    """A layer that knows the stateful methods alone."""

    def initialize(self, optimizer: Any = None) -> None:
        self.settle(get_backend())

    def forward_pass(self, X: Any, training: bool = True) -> Any:
        return X * 2.0

    def output_shape(self) -> tuple[int, ...]:
        return self.known_input_shape()


class Shifted(Dense):
    """A layer that computes something else than its class."""

    def forward(self, params: Any, X: Any, **kwargs: Any) -> Any:
        Y, cache = super().forward(params, X, **kwargs)
        return Y + 1.0, cache


def models(dtype: str = "float32") -> dict[str, Sequential]:
    def of(*layers: Layer) -> Sequential:
        model = Sequential(list(layers), input_shape=(6,), rng=0, dtype=dtype)
        model.initialize()
        return model

    inner = Sequential([Dense(5, activation="relu"), Dropout(0.5), Dense(4)], name="inner")
    found = {
        "dense": of(Dense(8, activation="relu"), Dropout(0.3), Dense(3)),
        "no bias": of(Dense(8, use_bias=False), Dense(3, activation="relu")),
        "activations": of(Dense(8, activation="gelu"), Dense(7, activation="tanh"), Dense(3, activation="softmax")),
        "norms": of(Dense(8), BatchNorm(), ReLU(), Dense(8, activation="relu"), LayerNorm(), Dense(3)),
        "nested": of(Dense(8, activation="relu"), inner, Dense(3)),
        "subclass": of(Dense(8, activation="relu"), Shifted(3), Dense(2)),
        "no dense": of(LayerNorm(), Dropout(0.1)),
    }
    found["lora"] = add_lora(found["dense"], 2)
    if dtype == "float32":
        found["int8"] = quantize(found["nested"])
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*NAMES, "axes"])
def test_models_predict_what_their_passes_compute(backend: Backend, name: str, dtype: str) -> None:
    if name == "int8" and dtype == "float64":
        pytest.skip("it is float32")
    with use_backend(backend), backend.scope():
        model = models(dtype)["dense" if name == "axes" else name]
        for n in (0, 1, 3, 130):
            X = RNG.normal(size=(n, 2, 6) if name == "axes" else (n, 6)).astype(dtype)
            wanted = to_numpy(model.forward(model.params, backend.asarray(X))[0])
            answer = model.predictor(batch_size=50)
            for got in (model.predict(X), model.predict(X, batch_size=17), answer(X), answer(X.astype("float64"))):
                assert isinstance(got, np.ndarray)
                assert got.shape == wanted.shape
                np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 if dtype == "float32" else 1e-13)
            there = answer(backend.asarray(X))
            assert type(there) is type(backend.asarray(X))


def test_a_layer_of_the_stateful_methods_alone() -> None:
    model = Sequential([Doubles(), Doubles()], input_shape=(6,), backend="numpy")
    model.initialize()
    X = RNG.normal(size=(5, 6)).astype("float32")
    assert np.array_equal(model.predict(X), 4.0 * X)
    assert model.predict(X[:0]).shape == (0, 6)


def test_the_weights_of_now(backend: Backend, tmp_path: Path) -> None:
    with use_backend(backend), backend.scope():
        model = models()["dense"]
        X = RNG.normal(size=(9, 6)).astype("float32")
        answer = model.predictor()

        def check() -> Any:
            wanted = to_numpy(model.forward(model.params, backend.asarray(X))[0])
            for got in (answer(X), model.predict(X)):
                np.testing.assert_allclose(got, wanted, atol=1e-5)
            return wanted

        seen = [check()]
        model.set_weights({"dense.W": RNG.normal(size=(6, 8))})
        seen.append(check())
        model.fit(X, RNG.normal(size=(9, 3)), epochs=2, optimizer=Adam(0.1))
        seen.append(check())
        model.layers[0].params = {**model.layers[0].params, "w0": backend.asarray(np.ones((1, 8)), "float32")}
        seen.append(check())
        model.layers[0].activation = None
        seen.append(check())
        save(model, tmp_path / "m")
        other = load(tmp_path / "m", backend=backend)
        np.testing.assert_allclose(other.predict(X), seen[-1], atol=1e-5)
        model.to("numpy")
        np.testing.assert_allclose(answer(X), seen[-1], atol=1e-5)
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.pairwise(seen))


def test_predict_sees_what_was_written_into_an_array() -> None:
    with use_backend("numpy"):
        model = models()["dense"]
        X = RNG.normal(size=(4, 6)).astype("float32")
        model.predict(X)
        model.layers[2].params["W"][...] = 0.0
        w0 = model.layers[2].params["w0"]
        assert np.array_equal(model.predict(X), np.broadcast_to(w0, (4, 3)))


def test_a_wrong_input_is_refused_as_by_predict() -> None:
    with use_backend("numpy"):
        model = models()["dense"]
        answer = model.predictor()
        for wrong in (np.ones((3, 7)), np.ones(6), np.array([["a"] * 6])):
            with pytest.raises((ValueError, TypeError)) as by_predict:
                model.predict(wrong)
            with pytest.raises(by_predict.type, match=r"X has|numbers"):
                answer(wrong)
        with pytest.raises(ValueError, match="batch_size"):
            model.predictor(batch_size=0)
        with pytest.raises(RuntimeError, match="not initialized"):
            Sequential([Dense(2)]).predictor()


@pytest.mark.parametrize("name", ["dense", "activations", "nested"])
def test_threads_give_the_bits_of_a_serial_run(name: str) -> None:
    with use_backend("numpy"):
        model = models()[name]
        answer = model.predictor()
        batches = [RNG.normal(size=(n % 150 + 1, 6)).astype("float32") for n in range(400)]
        wanted = [answer(X) for X in batches]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            got = list(pool.map(answer, batches * 3))
    assert all(np.array_equal(a, b) for a, b in zip(wanted * 3, got, strict=True))


@pytest.mark.parametrize("name", SETS)
def test_many_rows_take_no_more_memory_than_a_tile(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = kernel_set(name)[0]
    monkeypatch.setattr(module, "kernels_for", lambda family: kernels)
    model = Sequential([Dense(64, activation="relu"), Dense(10)], input_shape=(20,), rng=0, backend="numpy")
    model.initialize()
    X = np.zeros((200_000, 20), dtype="float32")
    model.predict(X[:2000])
    tracemalloc.start()
    try:
        Y = model.predict(X)
        assert tracemalloc.get_traced_memory()[1] - Y.nbytes < 2**20
    finally:
        tracemalloc.stop()


def test_numpy_alone_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "kernels_for", lambda family: numpy_kernels)
    with use_backend("numpy"):
        model = models()["nested"]
        X = RNG.normal(size=(3000, 6)).astype("float32")
        with np.errstate(all="raise"):
            got = model.predict(X)
        np.testing.assert_allclose(got, model.forward(model.params, X)[0], atol=1e-5)


# ------------------------------------------------------------------ what other libraries do


def test_jax_traces_few_numbers_of_rows() -> None:
    pytest.importorskip("jax")
    traced = []

    class Counted(Dense):
        def forward(self, params: Any, X: Any, **kwargs: Any) -> Any:
            traced.append(X.shape[0])
            return super().forward(params, X, **kwargs)

    model = Sequential([Counted(3)], input_shape=(6,), backend="jax", rng=0)
    model.initialize()
    for n in range(1, 70):
        assert model.predict(np.ones((n, 6), dtype="float32")).shape == (n, 3)
    assert traced == [1, 2, 4, 8, 16, 32, 64, 128]


@pytest.mark.parametrize("name", ["cupy", "cupy-on-the-host"])
def test_a_shape_that_comes_again_is_recorded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels, backend = kernel_set(name)
    used_by_trainings(kernels, monkeypatch)
    with use_backend(backend), backend.scope():
        if kernels.blas()[0] is None and "cupy" not in REQUIRED:
            pytest.skip(kernels.blas()[1])
        model = Sequential([Dense(8, activation="gelu"), Dense(3, activation="softmax")], input_shape=(6,), rng=0)
        model.initialize()
        X = backend.asarray(RNG.normal(size=(8, 6)), "float32")
        answer = model.predictor()
        found = [to_numpy(answer(X)) for _ in range(6)]
        recorder = answer.output().recorder  # type: ignore[attr-defined]
        assert recorder.reason == ""
        assert len(recorder.graphs) == 1
        assert all(np.array_equal(found[0], other) for other in found)
        model.set_weights({"dense.W": np.zeros((6, 8))})
        wanted = to_numpy(model.forward(model.params, X)[0])
        for _ in range(6):
            np.testing.assert_allclose(to_numpy(answer(X)), wanted, atol=1e-6)


# ------------------------------------------------------------------ the team

IN_A_CHILD = """
import os
import numpy as np
from dense_xp import Dense, Sequential
model = Sequential([Dense(600, activation="relu"), Dense(10)], input_shape=(600,), rng=0, backend="numpy")
model.initialize()
X = np.random.default_rng(0).normal(size=(500, 600)).astype("float32")
Y = model.predict(X)
child = os.fork()
if not child:
    os._exit(0 if np.array_equal(model.predict(X), Y) else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_process_has_a_team_of_its_own() -> None:
    pytest.importorskip("numba")
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", IN_A_CHILD], capture_output=True, text=True, timeout=120, env=environment, check=False
    )
    assert done.stdout.split() == ["0"], done.stderr


AT_THE_END = """
import threading
import numpy as np
from dense_xp import Dense, Sequential
model = Sequential([Dense(600, activation="relu"), Dense(10)], input_shape=(600,), rng=0, backend="numpy")
model.initialize()
X = np.random.default_rng(0).normal(size=(500, 600)).astype("float32")
def ask():
    while True:
        model.predict(X)
threading.Thread(target=ask, daemon=True).start()
for _ in range(20):
    model.predict(X)
"""


def test_the_interpreter_ends_while_threads_are_at_work() -> None:
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", AT_THE_END], capture_output=True, timeout=120, check=False)
        assert (done.returncode, done.stderr) == (0, b"")


def test_limits_of_threads_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    from dense_xp.kernels import numba_team

    limits = pytest.importorskip("threadpoolctl").threadpool_limits
    monkeypatch.setattr(numba_team, "_CORES", 8)
    with limits(1, user_api="blas"):
        assert numba_team.allowed_threads() == 1
    with limits(2, user_api="blas"):
        assert numba_team.allowed_threads() == 2
    monkeypatch.setattr(numba_team, "_libraries", [])
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert numba_team.allowed_threads() == 3
