"""What the loop over batches relies on, for each of the four ways to step a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from dense_xp import Adam, BatchNorm, Dense, Sequential
from dense_xp.backend import Backend
from dense_xp.layers.contract import with_inner
from dense_xp.learning.losses import Loss, SoftmaxCrossEntropy
from dense_xp.learning.metric import Measure
from dense_xp.support.trees import flatten
from dense_xp.training.compiled import CompiledStep
from dense_xp.training.fused.step import FusedStep
from dense_xp.training.moments import Moment
from dense_xp.training.recorded import RecordedStep
from dense_xp.training.samples import Samples
from dense_xp.training.steps import EagerStep, Step, stepper

RNG = np.random.default_rng(5)
X = RNG.normal(size=(24, 4))
LABELS = RNG.integers(0, 3, size=24)
KINDS = ("fused", "recorded", "compiled", "eager")


class Stateful(Dense):
    """A layer that writes the stateful methods."""

    def forward_pass(self, X: Any, training: bool = True) -> Any:
        return super().forward_pass(X, training)


def model_on(backend: Backend, kind: str = "") -> Sequential:
    hidden = Stateful if kind == "eager" else Dense
    model = Sequential(
        [hidden(8, activation="relu", name="hidden"), BatchNorm(), Dense(3)], input_shape=(4,), backend=backend, rng=0
    )
    model.initialize(Adam(0.01))
    return model


def step_of(kind: str, model: Sequential, loss: Loss) -> Step:
    metrics: Mapping[str, Measure] = {}
    if kind == "compiled":
        return CompiledStep(model, loss, metrics)
    if kind == "eager":
        return EagerStep(model, loss, metrics)
    if kind == "recorded":
        if not RecordedStep.serves(model):
            pytest.skip("this library records nothing")
        return RecordedStep(model, loss, metrics)
    if not model.built().kernels:
        pytest.skip("there are no kernels for this library")
    return FusedStep(model, loss, (), len(X))


def on_host(backend: Backend, tree: Any) -> dict[str, Any]:
    return {name: np.array(backend.to_numpy(array)) for name, array in flatten(tree).items()}


def held(backend: Backend, moment: Moment) -> list[dict[str, Any]]:
    return [on_host(backend, moment.params), on_host(backend, moment.optimizer_state)]


def same(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> bool:
    """Whether two trees have the same names and bits."""
    return all(
        own.keys() == other.keys() and all(own[name].tobytes() == other[name].tobytes() for name in own)
        for own, other in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_moment_outlives_the_steps_and_brings_everything_back(backend: Backend, kind: str) -> None:
    model = model_on(backend, kind)
    samples = Samples(model, X, LABELS, None, None)
    step = step_of(kind, model, samples.loss)
    batch, rng = samples.take(slice(0, 24)), np.random.default_rng(0)
    for _ in range(2):  # the second epoch starts from arrays that a step has made
        before = step.moment()
        arrays, counts = held(backend, before), [layer.steps for layer in with_inner(model)]
        step.begin_epoch()
        for _ in range(3):
            step(*batch, rng)
        assert step.whole
        assert step.unrecorded == ""
        assert same(held(backend, before), arrays)
        step.hand_over()
        assert not same(held(backend, Moment.of(model)), arrays)
    # in an eager step the layers count for themselves
    assert max(layer.steps for layer in with_inner(model)) == 6
    before.restore(model, RuntimeError())
    assert same(held(backend, Moment.of(model)), arrays)
    assert [layer.steps for layer in with_inner(model)] == counts


@pytest.mark.parametrize("kind", KINDS)
def test_all_ways_hand_over_the_same_model(backend: Backend, kind: str) -> None:
    results = []
    for own in ("eager", kind):
        model = model_on(backend, own)
        samples = Samples(model, X, LABELS, None, None)
        step = step_of(own, model, samples.loss)
        step.begin_epoch()
        losses = [step(*samples.take(slice(0, 24)), None)[0] for _ in range(3)]
        step.hand_over()
        results.append((backend.scalars(losses), *held(backend, Moment.of(model))))
    (losses, *trees), (own_losses, *own_trees) = results
    np.testing.assert_allclose(own_losses, losses, rtol=1e-5)
    for tree, own_tree in zip(trees, own_trees, strict=True):
        assert tree.keys() == own_tree.keys()
        for name, array in tree.items():
            np.testing.assert_allclose(own_tree[name], array, rtol=1e-4, atol=1e-5)


class Failing(SoftmaxCrossEntropy):
    """A loss that cannot be computed."""

    def value_and_grad(self, *_: Any) -> Any:
        raise ArithmeticError("no")


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_fails_is_not_whole(backend: Backend, kind: str) -> None:
    model = model_on(backend, kind)
    samples = Samples(model, X, LABELS, None, None)
    step = step_of(kind, model, Failing())
    before = step.moment()
    arrays = held(backend, before)
    step.begin_epoch()
    with pytest.raises(ArithmeticError) as error:
        step(*samples.take(slice(0, 24)), None)
    assert not step.whole
    before.restore(model, error.value)
    assert not any("but for" in note for note in getattr(error.value, "__notes__", ()))  # everything is back
    assert same(held(backend, Moment.of(model)), arrays)
    assert not any(layer.steps for layer in with_inner(model))


def test_which_way_serves(backend: Backend) -> None:
    def kind(model: Sequential, X_ndim: int = 2) -> type[Any]:
        return type(stepper(model, SoftmaxCrossEntropy(), {}, X_ndim, 24))

    assert kind(model_on(backend)) is (FusedStep if backend.kernels else CompiledStep)
    recorded = RecordedStep.serves(model_on(backend))
    assert kind(model_on(backend), 3) is (RecordedStep if recorded else CompiledStep)
    assert kind(model_on(backend, "eager")) is EagerStep
