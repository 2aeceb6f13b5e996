"""What stops a training leaves a usable model: whole steps, or those before the epoch; a refusal changes nothing."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tqdm.auto import tqdm

from dense_xp import Adam, Dense, Dropout, ReduceLROnPlateau, Sequential
from dense_xp.backend import Backend, get_backend, to_numpy
from dense_xp.learning.metrics import accuracy
from dense_xp.support.trees import flatten
from dense_xp.training.compiled import CompiledStep
from dense_xp.training.fused.step import FusedStep
from dense_xp.training.interrupts import Interrupts

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 5)).astype("float32"), RNG.integers(0, 3, size=40)


def network(backend: Backend) -> Sequential:
    model = Sequential([Dense(8, activation="relu"), Dropout(0.2), Dense(3)], input_shape=(5,), backend=backend, rng=0)
    model.initialize(Adam(0.01))
    return model


def everything(model: Sequential) -> dict[str, Any]:
    """Return copies of what a model is: arrays, counts, where it lives."""
    arrays = {**flatten(model.params), **{f"state {k}": v for k, v in flatten(model.optimizer_state).items()}}
    found: dict[str, Any] = {key: to_numpy(value).copy() for key, value in arrays.items()}
    return {**found, "steps": model.steps, "optimizer": repr(model.optimizer), "backend": model.backend}


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(actual) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(actual[key], value, err_msg=key)


def after_steps(backend: Backend, n: int) -> dict[str, Any]:
    """Return a model that was trained on the first n batches of an epoch and nothing else."""
    model = network(backend)
    model.fit(X[: 4 * n], Y[: 4 * n], 1, 4, shuffle=False, rng=1)
    return everything(model)


@pytest.mark.parametrize("n", [1, 3, 10])
def test_an_interrupt_ends_after_the_step(backend: Backend, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It arrives between the step and the next one, in the midst of the loop's own work."""
    model, counted = network(backend), [0]

    def interrupting(self: tqdm) -> None:
        counted[0] += 1
        if counted[0] == n:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(tqdm, "update", interrupting)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, 1, 4, shuffle=False, rng=1, verbose=True)
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert_same(everything(model), after_steps(backend, n))
    model.fit(X, Y, 1, 4)  # it goes on


@pytest.mark.parametrize("call", range(1, 8))
def test_interrupts_leave_the_lock_of_the_progress_bar_to_other_threads(
    call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of them come while the lock is taken: for a new bar, to draw it, and when it is closed."""
    lock, model = tqdm.get_lock(), network(get_backend("numpy"))
    acquire, calls = type(lock).acquire, [0]

    def interrupting(self: Any, *args: Any, **kwargs: Any) -> None:
        acquire(self, *args, **kwargs)
        calls[0] += 1
        if calls[0] == call:
            for _ in range(3):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    monkeypatch.setattr(type(lock), "acquire", interrupting)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, 8, 4, verbose=True)
    monkeypatch.undo()
    assert calls[0] >= call
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert ends(lambda: network(get_backend("numpy")).fit(X, Y, 1, 4, verbose=True))


def ends(function: Callable[[], object]) -> bool:
    """Whether another thread comes to the end of it."""
    other = threading.Thread(target=function, daemon=True)
    other.start()
    other.join(60)
    return not other.is_alive()


def test_what_nobody_sees_does_not_wait_for_the_lock_of_progress_bars() -> None:
    """A process that forks has it in common with its children, and one of those may be killed while it draws."""
    with tqdm.get_lock():
        assert ends(lambda: network(get_backend("numpy")).fit(X, Y, 1, 4))


def test_a_bar_is_drawn_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for verbose, drawn in ((None, False), (False, False), (True, True)):
        network(get_backend("numpy")).fit(X, Y, 2, 4, verbose=verbose)
        said = capsys.readouterr().err
        assert ("20/20" in said and "loss=" in said) == drawn
        assert bool(said) == drawn


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_an_interrupt_within_a_step_waits_for_its_end(name: str) -> None:
    pytest.importorskip(name)
    backend, calls = get_backend(name), [0]
    model = network(backend)

    def interrupting(prediction: Any, target: Any, weight: Any = None) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            signal.raise_signal(signal.SIGINT)
        return accuracy(prediction, target, weight)

    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, 1, 4, shuffle=False, rng=1, metrics=[interrupting])
    assert_same(everything(model), after_steps(backend, 3))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
@pytest.mark.parametrize("name", ["numpy", "torch", "array_api_strict"])
def test_what_breaks_a_step_brings_the_epoch_before_it_back(name: str, error: Any) -> None:
    pytest.importorskip(name)
    model, calls = network(get_backend(name)), [0]
    model.fit(X, Y, 1, 4, shuffle=False, rng=1)
    before = everything(model)

    def broken(prediction: Any, target: Any, weight: Any = None) -> Any:
        calls[0] += 1
        if calls[0] == 5:
            raise error
        return accuracy(prediction, target, weight)

    with pytest.raises(error):
        model.fit(X, Y, 1, 4, metrics=[broken], shuffle=False, rng=1)
    assert_same(everything(model), before)
    model.fit(X, Y, 1, 4)


@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_while_the_model_gets_its_arrays_no_interrupt_is_raised(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches that wait for their update move the parameters there, once."""
    pytest.importorskip(name)
    model, calls = network(get_backend(name)), [0]
    step = CompiledStep if name == "jax" else FusedStep
    move = step.move

    def interrupted(self: Any) -> None:
        move(self)
        if self.waiting == 1:  # of 3: at the end of the epoch
            calls[0] += 1
            for _ in range(3):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(step, "move", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, 2, 4, shuffle=False, rng=1, accumulate=3)
    monkeypatch.undo()
    assert calls == [1]
    assert model.steps == 4
    other = network(get_backend(name))
    other.fit(X, Y, 1, 4, shuffle=False, rng=1, accumulate=3)
    assert_same(everything(model), everything(other))


REFUSED: dict[str, dict[str, Any]] = {
    "y too short": {"y": Y[:-1]},
    "a label too many": {"y": np.where(np.arange(40) == 7, 3, Y)},
    "NaN": {"X": np.where(np.arange(40)[:, None] == 7, np.nan, X)},
    "a wrong width": {"X": X[:, :4]},
    "an unknown loss": {"loss": "mean_sqared_error"},
    "a callback that is none": {"callbacks": [3]},
    "negative weights": {"sample_weight": -np.ones(40)},
    "validation data that do not fit": {"validation_data": (X[:, :3], Y)},
    "a metric that is none": {"metrics": ["acuracy"]},
}


@pytest.mark.parametrize("wrong", REFUSED)
@pytest.mark.parametrize("built", [True, False])
def test_a_refused_fit_changes_nothing(backend: Backend, wrong: str, built: bool) -> None:
    arguments = {"X": X, "y": Y, "optimizer": "sgd", **REFUSED[wrong]}
    if built:
        model = network(backend)
        model.fit(X, Y, 1, 8)
    else:
        shape = {"input_shape": (5,)} if wrong == "a wrong width" else {}
        model = Sequential([Dense(8), Dense(3)], backend=backend, rng=0, **shape)
    before, shape_before = everything(model), model.input_shape
    with pytest.raises((ValueError, TypeError)):
        model.fit(**arguments)
    assert_same(everything(model), before)
    assert model.input_shape == shape_before
    if built:
        model.fit(X, Y, 1, 8)


def test_the_second_interrupt_is_raised_at_once() -> None:
    reached: list[str] = []
    with Interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt), interrupts.held():  # noqa: PT012
            signal.raise_signal(signal.SIGINT)
            reached.append("the second one")
            signal.raise_signal(signal.SIGINT)
            reached.append("beyond it")
        with pytest.raises(KeyboardInterrupt), interrupts.open():  # noqa: PT012
            reached.append("where it does no harm")
            signal.raise_signal(signal.SIGINT)
            reached.append("beyond that")
    assert reached == ["the second one", "where it does no harm"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_was_noted_is_raised_at_the_end_or_where_it_does_no_harm() -> None:
    for ends in (False, True):
        reached = False
        with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:  # noqa: PT012
            interrupts.undisturbed(lambda: signal.raise_signal(signal.SIGINT))
            reached = True
            with contextlib.nullcontext() if ends else interrupts.open():
                pass
            assert ends
        assert reached
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_while_the_handler_is_put_in_place_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    put = signal.signal

    def interrupted(number: int, handler: Any) -> Any:
        before = put(number, handler)
        if handler is not signal.default_int_handler:
            signal.raise_signal(signal.SIGINT)
        return before

    model = network(get_backend("numpy"))
    monkeypatch.setattr(signal, "signal", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, 1, 4)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert model.steps == 0  # it is raised before anything is learned


def test_a_training_within_a_callback_is_not_cut_in_two_either() -> None:
    model, inner = network(get_backend("numpy")), network(get_backend("numpy"))

    def trains(run: Any) -> None:
        def interrupting(prediction: Any, target: Any, weight: Any = None) -> Any:
            signal.raise_signal(signal.SIGINT)
            return accuracy(prediction, target, weight)

        inner.fit(X, Y, 1, 4, shuffle=False, rng=1, metrics=[interrupting])

    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, 2, 4, callbacks=[trains])
    assert_same(everything(inner), after_steps(get_backend("numpy"), 1))
    assert model.steps == 10
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_handlers_and_threads_are_left_alone() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with Interrupts() as interrupts, interrupts.held():
            signal.raise_signal(signal.SIGINT)
        assert seen == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)
    results: list[float] = []
    thread = threading.Thread(target=lambda: results.append(network(get_backend("numpy")).fit(X, Y, 1, 8)["loss"][0]))
    thread.start()
    thread.join()
    assert len(results) == 1


def test_a_compiled_model_goes_with_its_last_reference() -> None:
    pytest.importorskip("jax")
    model = network(get_backend("jax"))
    model.fit(X, Y, 1, 8)
    model.predict(X)
    assert model.compiled
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_a_lower_rate_is_no_new_step() -> None:
    pytest.importorskip("jax")
    model = network(get_backend("jax"))
    model.fit(X, Y, 4, 8, callbacks=[ReduceLROnPlateau("loss", patience=1, min_delta=10.0)])
    steps = [key for key in model.compiled if "step" in str(key)]
    model.fit(X, Y, 1, 8)
    assert [key for key in model.compiled if "step" in str(key)] == steps
    assert len(steps) == 1
