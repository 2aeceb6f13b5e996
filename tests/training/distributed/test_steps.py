"""The steps of one rank by itself, without MPI: a reduction that finds nobody else."""

from __future__ import annotations

import signal
from typing import Any

import numpy as np
import pytest

from dense_xp import Adam, BatchNorm, Dense, Sequential, SoftmaxCrossEntropy
from dense_xp.backend import Backend, to_numpy
from dense_xp.backend.backend import Array
from dense_xp.training.compiled import CompiledStep
from dense_xp.training.distributed.shares import Part
from dense_xp.training.distributed.signals import SharedInterrupts, Terminated
from dense_xp.training.distributed.steps import ReducedStep

X = np.random.default_rng(0).normal(size=(12, 5))
LABELS = np.arange(12) % 3


class Nobody:
    """Adds up what one rank has."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def sum(self, array: Array, interrupts: SharedInterrupts | None = None) -> Array:
        self.sizes.append(int(array.shape[0]))
        return array


def trained(kind: type[CompiledStep], backend: Backend, layers: list[Any], **more: Any) -> tuple[Any, dict[str, Any]]:
    model = Sequential([Dense(4, activation="tanh"), *layers, Dense(3)], input_shape=(5,), rng=0, backend=backend)
    model.initialize(Adam(0.01))
    with backend.scope():
        step = kind(model, SoftmaxCrossEntropy(), {}, 2, **more)
        step.begin_epoch()
        for rows in (slice(0, 5), slice(5, 9), slice(9, 12)):
            if more:
                more["part"].rows, more["part"].whole = slice(0, rows.stop - rows.start), rows.stop - rows.start
            step(backend.asarray(X[rows], "float32"), backend.asarray(LABELS[rows]), None, model.rng)
        step.hand_over()
    return step, {name: to_numpy(value) for name, value in model.weights.items()}


@pytest.mark.parametrize("asks", [False, True])
def test_it_is_compiled_unless_layers_ask_other_ranks_and_asks_once_for_each_update(
    backend: Backend, asks: bool
) -> None:
    layers = [BatchNorm()] if asks else []
    nobody = Nobody()
    step, found = trained(ReducedStep, backend, layers, part=Part(nobody), interrupts=SharedInterrupts())
    assert step.compiles == (backend.compiles and not asks)
    sums = [size for size in nobody.sizes if size > 20]  # the others are means over the batch
    assert len(sums) == 2
    assert bool(nobody.sizes[2:]) == asks
    _, want = trained(CompiledStep, backend, layers)
    for name, value in want.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("alone", [False, True])
def test_a_signal_that_comes_too_late_for_all_is_raised_when_nobody_waits_any_more(alone: bool) -> None:
    interrupts, reached = SharedInterrupts(alone), []

    def late() -> None:
        with interrupts:
            signal.raise_signal(signal.SIGINT)
            reached.append("the end")

    with pytest.raises(KeyboardInterrupt):
        late()
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_where_there_is_one_rank_a_signal_ends_the_step_that_it_is_in(number: int, error: type[BaseException]) -> None:
    interrupts, reached = SharedInterrupts(alone=True), []
    with pytest.raises(error), interrupts:  # noqa: PT012
        with interrupts.held():
            signal.raise_signal(number)
            reached.append("the end of the step")
        interrupts.check()
        reached.append("the next one")
    assert reached == ["the end of the step"]
