"""Products and updates of a few rows: right for every length, and the same bits on any number of threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from dense_xp import Adam, AdamW, Dense, Optimizer, Sequential
from dense_xp.kernels import numba, numba_few, numba_team
from dense_xp.training.fused import stages

SHAPES = [
    (2, 64, 64), (3, 65, 130), (6, 64, 4097), (7, 4099, 65), (16, 700, 333), (47, 517, 613), (64, 513, 1100)
]  # fmt: skip
"""Rows, inputs, units."""

UPDATES: dict[Callable[..., None], tuple[int, tuple[Any, ...]]] = {
    numba.sgd: (0, (0.1, 0.99)),
    numba.momentum: (1, (0.1, 0.99, 0.9, True)),
    numba.rmsprop: (1, (0.1, 0.99, 0.9, 1e-3)),
    numba.rmsprop_momentum: (2, (0.1, 0.99, 0.9, 1e-3, 0.9)),
    numba.adam: (2, (0.1, 0.99, 0.9, 0.999, 1e-3, 3)),
    numba.adagrad: (1, (0.1, 0.99, 1e-3)),
    numba.lion: (1, (0.1, 0.99, 0.9, 0.99)),
}
"""How many states an update has, and its constants."""


@pytest.fixture(autouse=True)
def _all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take these kernels for small layers too, and several threads for each."""
    monkeypatch.setattr(numba_few, "LEAST", 0)
    monkeypatch.setattr(numba_few, "SHARE", 1 << 10)


def _random(seed: int, *shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def _threads(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_team, "allowed_threads", lambda: count)


def _assert_a_product(ours: np.ndarray, A: np.ndarray, B: np.ndarray) -> None:
    """Hold it to the bound of any order of summation (Higham, Accuracy and Stability, section 3.1)."""
    A, B = A.astype("longdouble"), B.astype("longdouble")
    bound = (A.shape[1] + 2) * np.finfo(ours.dtype).eps * (abs(A) @ abs(B))
    assert np.all(abs(ours - A @ B) <= bound)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_products(shape: tuple[int, int, int], dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, n_in, units = shape
    X, W, grad = (_random(i, *s, dtype=dtype) for i, s in enumerate([(rows, n_in), (n_in, units), (rows, units)]))
    last = []
    for threads in (1, 2, 3, 5):
        _threads(threads, monkeypatch)
        of_units, of_inputs = np.full((rows, units), np.nan, dtype), np.full((rows, n_in), np.nan, dtype)
        numba.few_product(X, W, of_units)
        numba.few_product(grad, W.T, of_inputs)
        if threads == 1:
            _assert_a_product(of_units, X, W)
            _assert_a_product(of_inputs, grad, W.T)
        else:
            np.testing.assert_array_equal(of_units, last[0])
            np.testing.assert_array_equal(of_inputs, last[1])
        last = [of_units, of_inputs]


def _ways_to_lie(rows: int) -> dict[str, np.ndarray]:
    """Return batches of 200 columns as a user may pass them; those of the last five are in no order of ours."""
    whole = _random(1, 2 * rows, 300)
    raw = np.zeros(rows * 200 * 4 + 1, np.uint8)
    unaligned = raw[1:].view("float32").reshape(rows, 200)
    unaligned[:] = whole[:rows, :200]
    return {
        "columns of a table": whole[:rows, :200],
        "every other row": whole[::2, 50:250],
        "columns first": np.asfortranarray(whole[:rows, :200]),
        "columns reversed": whole[:rows, 199::-1],
        "rows reversed": whole[rows - 1 :: -1, :200],
        "one row again and again": np.broadcast_to(whole[0, :200], (rows, 200)),
        "windows": np.lib.stride_tricks.sliding_window_view(whole.reshape(-1)[: rows + 199], 200),
        "at an odd address": unaligned,
    }


@pytest.mark.parametrize("rows", [5, 40])
@pytest.mark.parametrize("way", list(_ways_to_lie(2)))
def test_batches_that_lie_otherwise(way: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _threads(2, monkeypatch)
    X, W = _ways_to_lie(rows)[way], _random(2, 200, 100)
    assert X.shape == (rows, 200)
    out = np.empty((rows, 100), "float32")
    numba.few_product(X, W, out)
    _assert_a_product(out, X, W)
    moved = W.copy()
    served = numba.learn(X, out, moved, (), numba.sgd, (1.0, 1.0))
    assert served == (way in ("columns of a table", "every other row"))
    if served:
        np.testing.assert_allclose(moved, W - X.T.astype("float64") @ out, rtol=1e-4, atol=1e-3)


def test_what_stays_with_blas_wakes_no_threads_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    sizes: list[int] = []
    matmul = np.matmul

    def watched(A: np.ndarray, B: np.ndarray, out: np.ndarray) -> None:
        sizes.append(len(A) * B.size)
        matmul(A, B, out=out)

    monkeypatch.setattr(np, "matmul", watched)
    X, W, grad = _random(1, 64, 2048), _random(2, 2048, 10), _random(3, 64, 10)
    for A, B in ((X, W), (grad, W.T), (X.T, grad)):
        out = np.empty((len(A), B.shape[1]), "float32")
        numba.few_product(A, B, out)
        _assert_a_product(out, A, B)
    assert len(sizes) > 6
    assert max(sizes) <= numba_few.ALONE


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernel", UPDATES, ids=lambda kernel: kernel.__name__)
@pytest.mark.parametrize("shape", SHAPES[:2] + SHAPES[-3:])
def test_learning(
    kernel: Callable[..., None], shape: tuple[int, int, int], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small whole numbers have exact products, so the update gets the very gradient that BLAS would give it."""
    rows, n_in, units = shape
    count, constants = UPDATES[kernel]
    X, grad = (np.round(_random(i, rows, n)).astype(dtype) for i, n in ((1, n_in), (2, units)))
    start = [
        _random(3, n_in, units, dtype=dtype),
        *(abs(_random(4 + i, n_in, units, dtype=dtype)) for i in range(count)),
    ]
    expected = [array.copy() for array in start]
    kernel(expected[0].reshape(-1), (X.T @ grad).reshape(-1), *(a.reshape(-1) for a in expected[1:]), *constants)
    for threads in (1, 3):
        _threads(threads, monkeypatch)
        W, *state = (array.copy() for array in start)
        assert numba.learn(X, grad, W, state, kernel, constants)
        for own, other in zip((W, *state), expected, strict=True):
            np.testing.assert_array_max_ulp(own, other, 2)  # the compiler may fuse operations in one of them alone


def test_nan_and_infinity_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    _threads(2, monkeypatch)
    for value in (np.nan, np.inf):
        X, W = _random(1, 9, 128), np.ones((128, 70), "float32")
        X[3, 5] = value
        out = np.empty((9, 70), "float32")
        numba.few_product(X, W, out)
        assert np.array_equal(np.isfinite(out), np.arange(9)[:, np.newaxis] * np.ones(70) != 3)
        back = np.empty((9, 128), "float32")
        numba.few_product(out, W.T, back)
        assert np.array_equal(np.isfinite(back).all(axis=1), np.arange(9) != 3)
        assert numba.learn(X, np.ones((9, 70), "float32"), W, (), numba.sgd, (0.1, 1.0))
        assert np.array_equal(np.isfinite(W).all(axis=1), np.arange(128) != 5)


def test_calls_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One has the threads, and the others work alone."""
    _threads(3, monkeypatch)
    X, W, grad = _random(1, 20, 300), _random(2, 300, 200), _random(3, 20, 200)

    def results() -> list[np.ndarray]:
        own, out, back = W.copy(), np.empty((20, 200), "float32"), np.empty((20, 300), "float32")
        for _ in range(20):
            numba.few_product(X, own, out)
            numba.few_product(grad, own.T, back)
            numba.learn(X, grad, own, (), numba.sgd, (0.01, 1.0))
        return [own, out, back]

    expected, wrong = results(), []

    def work() -> None:
        try:
            for own, other in zip(results(), expected, strict=True):
                np.testing.assert_array_equal(own, other)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_when_they_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    large, small = (784, 512), (1, 512)
    assert numba.few_rows(32, [large, small])
    assert not numba.few_rows(1, [large])  # BLAS has products of a matrix and a vector
    assert not numba.few_rows(128, [large])
    assert not numba.few_rows(32, [(100, 100), (32, 50_000)])


@pytest.mark.parametrize(
    "optimizer",
    [Adam(0.01), AdamW(0.01, weight_decay=0.1), Adam(0.01, clip_value=0.01)],
    ids=["adam", "adamw", "clipped"],
)
@pytest.mark.parametrize("batch", [2, 33, 64])
def test_a_training_says_the_same(batch: int, optimizer: Optimizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With biases in one block with their weights, apart from them as they do not decay, and with no such update."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(2 * batch + 1, 70)), rng.integers(0, 65, size=2 * batch + 1)
    weights, taken = [], []
    learn = numba.learn
    monkeypatch.setattr(stages, "SMALL", 0)
    monkeypatch.setattr(numba, "learn", lambda *args: taken.append(learn(*args)) or taken[-1])
    for few in (True, False):
        monkeypatch.setattr(numba, "few_rows", lambda rows, shapes, few=few: few)
        layers = [Dense(130, activation="relu"), Dense(90, use_bias=False, activation="gelu"), Dense(65)]
        model = Sequential(layers, input_shape=(70,), dtype="float64", backend="numpy", rng=0)
        model.initialize(optimizer)
        model.fit(X, y, epochs=3, batch_size=batch, verbose=0)
        weights.append(model.weights)
    assert sum(taken) == (0 if optimizer.clip_value else 3 * 3 * 3)
    for name, value in weights[0].items():
        np.testing.assert_allclose(value, weights[1][name], rtol=1e-9, atol=1e-12, err_msg=name)
