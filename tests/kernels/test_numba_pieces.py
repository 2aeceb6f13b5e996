"""Loops in pieces: the bits of one thread on any number of them, and those of the whole loop where nothing is added."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from dense_xp.kernels import numba, numba_pieces, numba_team

ROWS, COLUMNS = 1000, 1200
assert ROWS * COLUMNS > 2 * numba_pieces.LEAST


def _matrix(seed: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(ROWS, COLUMNS)).astype(dtype)


def _row(seed: int) -> np.ndarray:
    return _matrix(seed)[:1].copy()


def _flat(seed: int) -> np.ndarray:
    return np.abs(_matrix(seed)).reshape(-1)


KERNELS: dict[str, Callable[[], list[Any]]] = {
    "linear": lambda: [_matrix(1), _row(2)],
    "relu": lambda: [_matrix(1), _row(2)],
    "tanh": lambda: [_matrix(1), _row(2)],
    "sigmoid": lambda: [_matrix(1), _row(2)],
    "linear_backward": lambda: [_matrix(1), _matrix(2), _row(3)],
    "relu_backward": lambda: [_matrix(1), _matrix(2), _row(3)],
    "tanh_backward": lambda: [_matrix(1), _matrix(2), _row(3)],
    "sigmoid_backward": lambda: [_matrix(1), _matrix(2), _row(3)],
    "layer_norm": lambda: [_matrix(1), _row(2), _row(3), 1e-5, _matrix(4), _matrix(5)[:, :1].copy(), _matrix(6)],
    "layer_norm_backward": lambda: [
        _matrix(1), _row(2), _matrix(3), _matrix(4)[:, :1].copy(), _row(5), _row(6), _matrix(7)
    ],
    "dropout": lambda: [_matrix(1), _matrix(2) > 0, 2.0, _matrix(3)],
    "softmax_cross_entropy": lambda: [_matrix(1), np.arange(ROWS) % COLUMNS, 0.1],
    "sgd": lambda: [_flat(1), _flat(2), 0.1, 0.99],
    "momentum": lambda: [_flat(1), _flat(2), _flat(3), 0.1, 0.99, 0.9, True],
    "rmsprop": lambda: [_flat(1), _flat(2), _flat(3), 0.1, 0.99, 0.9, 1e-8],
    "rmsprop_momentum": lambda: [_flat(1), _flat(2), _flat(3), _flat(4), 0.1, 0.99, 0.9, 1e-8, 0.9],
    "adam": lambda: [_flat(1), _flat(2), _flat(3), _flat(4), 0.1, 0.99, 0.9, 0.999, 1e-8, 3],
    "adagrad": lambda: [_flat(1), _flat(2), _flat(3), 0.1, 0.99, 1e-8],
    "lion": lambda: [_flat(1), _flat(2), _flat(3), 0.1, 0.99, 0.9, 0.99],
}  # fmt: skip
SUMS = {
    "linear_backward": [2], "relu_backward": [2], "tanh_backward": [2], "sigmoid_backward": [2],
    "layer_norm_backward": [4, 5],
}  # fmt: skip


def _with(name: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what a kernel leaves in its arguments, and what it returns."""
    monkeypatch.setattr(numba_team, "allowed_threads", lambda: threads)
    given = KERNELS[name]()
    return [getattr(numba, name)(*given), *given]


def _assert_the_same_bits(ours: list[Any], theirs: list[Any]) -> None:
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize("name", KERNELS)
def test_the_bits_are_those_of_one_thread(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = _with(name, 1, monkeypatch)
    for threads in (2, 3, 5):
        for _ in range(3):
            _assert_the_same_bits(_with(name, threads, monkeypatch), alone)


@pytest.mark.parametrize("name", KERNELS)
def test_pieces_make_up_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, *in_pieces = _with(name, 3, monkeypatch)
    monkeypatch.setattr(numba_pieces, "LEAST", 1 << 40)
    whole, *at_once = _with(name, 1, monkeypatch)
    if value is not None:
        assert value == pytest.approx(whole, rel=1e-6)
    for place, (own, other) in enumerate(zip(in_pieces, at_once, strict=True)):
        if place in SUMS.get(name, ()):  # 1,000 numbers, in another order
            np.testing.assert_allclose(own, other, rtol=0, atol=ROWS * 2.0**-24 * 20)
        else:
            np.testing.assert_array_equal(own, other)


def test_several_threads_are_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_team, "allowed_threads", lambda: 3)
    both, seen = threading.Barrier(2), set()

    def do(i: int) -> None:
        seen.add(threading.get_ident())
        if i < 2:
            both.wait(timeout=60)  # nobody does both of them

    numba_pieces.Pieces().run(do, 8)
    assert len(seen) >= 2


def test_where_blas_has_one_thread_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_team, "allowed_threads", lambda: 1)
    seen = []
    numba_pieces.Pieces().run(lambda i: seen.append((i, threading.get_ident())), 8)
    assert seen == [(i, threading.get_ident()) for i in range(8)]


def test_calls_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One has the threads, and the others work alone."""
    alone = {name: _with(name, 1, monkeypatch) for name in ("adam", "relu_backward")}
    monkeypatch.setattr(numba_team, "allowed_threads", lambda: 3)
    wrong: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for _ in range(5):
                given = KERNELS[name]()
                _assert_the_same_bits([getattr(numba, name)(*given), *given], alone[name])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("adam", "relu_backward", "adam")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_error_of_any_thread_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_team, "allowed_threads", lambda: 2)
    pieces, caller, both = numba_pieces.Pieces(), threading.get_ident(), threading.Barrier(2)
    for fails_here in (True, False):

        def do(i: int, fails_here: bool = fails_here) -> None:
            if i < 2:
                both.wait(timeout=60)
            if (threading.get_ident() == caller) == fails_here:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            pieces.run(do, 8)
    done: list[int] = []
    pieces.run(done.append, 8)
    assert sorted(done) == list(range(8))


@pytest.mark.skipif(not numba_team._X86, reason="other processors are as fast with such numbers")
def test_numbers_that_are_slow_are_zero_in_a_kernel_and_nowhere_else() -> None:
    for size in (1000, numba_pieces.LEAST):
        param, grad, mean, square = (np.full(size, value, "float32") for value in (1.0, 1e-20, 1e-38, 1e-38))
        numba.adam(param, grad, mean, square, 0.1, 1.0, 0.9, 0.999, 1e-8, 3)
        assert np.all(square == 0)  # 0.999e-38 + 1e-43
        assert np.all(mean == np.float32(0.1 * np.float32(1e-20)))
        assert np.all(param == 1)
        velocity = np.full(size, 1.2e-38, "float32")
        numba.momentum(param, np.zeros_like(param), velocity, 0.1, 1.0, 0.9, False)
        assert np.all(velocity == 0)
    small = np.full(1000, 1e-38, "float32")
    assert np.all(small * np.float32(0.1) > 0)
