"""Small trainings on NumPy take few threads of BLAS, and leave the setting as they found it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from dense_xp import Dense, Sequential
from dense_xp.training.threads import UPDATE, WORK_OF_A_THREAD, few_threads, threads_for

threadpoolctl = pytest.importorskip("threadpoolctl")

X, Y = np.ones((40, 8), dtype="float32"), np.ones((40, 2), dtype="float32")


def counts() -> list[int]:
    return [library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]


def network(backend: str = "numpy", width: int = 16) -> Sequential:
    model = Sequential([Dense(width), Dense(2)], input_shape=(8,), backend=backend, rng=0)
    model.initialize("sgd")
    return model


def seen_in_a_fit(model: Sequential, **kwargs: Any) -> list[int]:
    found: list[int] = []
    model.fit(X, Y, 1, 8, callbacks=[lambda run: found.extend(counts())], **kwargs)
    return found


@pytest.fixture(autouse=True)
def three() -> Any:
    """Allow three threads, whatever the machine has; all that a fit imports has been."""
    network().fit(X, Y, 1, 8)
    if not counts():
        pytest.skip("this BLAS has no setting that threadpoolctl knows")
    with threadpoolctl.threadpool_limits(3, user_api="blas"):
        if set(counts()) != {3}:
            pytest.skip("this BLAS takes no three threads")
        yield


def test_how_many_are_worth_it() -> None:
    model = network(width=1024)
    assert [threads_for(model, rows - UPDATE) for rows in (33, 1023, 1024, 2048)] == [1, 1, 2, 3]
    assert WORK_OF_A_THREAD == 8 * 1024 * 1024


def test_a_small_fit_takes_one_and_puts_the_others_back() -> None:
    model = network()
    assert set(seen_in_a_fit(model)) == {1}
    assert set(counts()) == {3}
    with pytest.raises(ZeroDivisionError):
        model.fit(X, Y, 1, 8, callbacks=[lambda run: 1 / 0])
    assert set(counts()) == {3}
    with few_threads(network(width=1024), 1024):
        assert set(counts()) == {2}
    with few_threads(network(width=1024), 1024 * 100):
        assert set(counts()) == {3}


def test_what_is_set_is_never_raised() -> None:
    with threadpoolctl.threadpool_limits(1, user_api="blas"), few_threads(network(width=1024), 1024):
        assert set(counts()) == {1}


def test_rows_of_further_axes_count(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def asking(model: Any, rows: int) -> Any:
        asked.append(rows)
        return few_threads(model, rows)

    monkeypatch.setattr("dense_xp.training.fitting.few_threads", asking)
    model = network()
    model.fit(np.ones((6, 3, 5, 8)), np.ones((6, 3, 5, 2)), 1, 4)
    model.fit(X, Y, 1, 64)
    assert asked == [60, 40]


def test_other_libraries_are_left_alone() -> None:
    pytest.importorskip("torch")
    assert set(seen_in_a_fit(network("torch"))) == {3}


def test_fits_in_several_threads_put_back_what_was_there() -> None:
    model, first_in, second_in, first_out = network(), *(threading.Event() for _ in range(3))

    def first() -> None:
        with few_threads(model, 8):
            first_in.set()
            second_in.wait(10)
        first_out.set()

    thread = threading.Thread(target=first)
    thread.start()
    first_in.wait(10)
    with few_threads(model, 8):
        second_in.set()
        first_out.wait(10)
    thread.join()
    assert set(counts()) == {3}
    assert set(seen_in_a_fit(model)) == {1}
