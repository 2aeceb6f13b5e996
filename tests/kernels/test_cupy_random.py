"""Random numbers that the device draws: the bits of NumPy's generator, which goes on as if it had drawn them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dense_xp import Dense, Dropout, Sequential
from dense_xp.backend import get_backend, to_numpy, use_backend
from dense_xp.layers.layer import Layer
from dense_xp.support.seeds import Draw, uniform_at_least
from dense_xp.support.skipping import SkippingGenerator
from dense_xp.training import feeding
from dense_xp.training.feeding import NoiseFeeder
from tests.kernels.kernel_sets import kernel_set, used_by_trainings

SHAPES = [(1,), (7,), (3, 5), (257, 4), (0, 3), (4099, 70)]


@pytest.fixture(params=["cupy", "cupy-on-the-host"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    module, chosen = kernel_set(request.param)
    used_by_trainings(module, monkeypatch)
    with use_backend(chosen), chosen.scope():
        yield module


def pair(seed: int, before: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Return two generators in one state, perhaps with half a number left over."""
    made = np.random.default_rng(seed), np.random.default_rng(seed)
    for rng in made:
        rng.normal(size=5)
        rng.integers(0, 9, size=before, dtype=np.uint32)
    return made


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("seed", "before"), [(0, 0), (1, 1), (2**40, 2), (5, 3)])
def test_the_bits_are_those_of_the_host(kernels: Any, shape: tuple[int, ...], seed: int, before: int) -> None:
    ours, theirs = pair(seed, before)
    for bound in (0.5, 0.0, 0.1):
        draw = uniform_at_least(SkippingGenerator(ours.bit_generator), bound, shape)
        assert isinstance(draw, Draw)
        there = kernels.uniform_at_least(*draw)
        assert there.shape == shape
        np.testing.assert_array_equal(to_numpy(there), theirs.uniform(size=shape) >= bound)
        assert ours.bit_generator.state == theirs.bit_generator.state


def test_threads_that_take_many_numbers_each(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.cupy_random, "MOST_BLOCKS", 2)
    ours, theirs = pair(3, 1)
    there = kernels.uniform_at_least(*SkippingGenerator(ours.bit_generator).at_least(0.3, (90, 77)))
    np.testing.assert_array_equal(to_numpy(there), theirs.uniform(size=(90, 77)) >= 0.3)


@pytest.mark.parametrize("increment", [1, 2**64 - 1, 2**127 + 1])
def test_states_at_the_edges(kernels: Any, increment: int) -> None:
    for state in (0, 2**64 - 1, 2**63, 2**127, 2**128 - 1):
        ours, theirs = pair(0, 0)
        for rng in (ours, theirs):
            rng.bit_generator.state = {**rng.bit_generator.state, "state": {"state": state, "inc": increment}}
        there = kernels.uniform_at_least(*SkippingGenerator(ours.bit_generator).at_least(0.5, (300,)))
        np.testing.assert_array_equal(to_numpy(there), theirs.uniform(size=300) >= 0.5)


class Noisy(Layer):
    """A layer whose noise is an array."""

    def draw_noise(self, rng: Any, batch_shape: tuple[int, ...]) -> Any:
        assert isinstance(rng, np.random.Generator)
        return {"a": rng.uniform(size=batch_shape), "b": uniform_at_least(rng, 0.5, batch_shape)}


def test_other_noise_travels_as_before(kernels: Any) -> None:
    ours, theirs = pair(0, 1)
    feeder, layer = NoiseFeeder(get_backend()), Noisy()
    for _ in range(3):
        there = feeder.drawn(layer, ours, (6, 4))
        here = layer.draw_noise(theirs, (6, 4))
        for key, value in here.items():
            np.testing.assert_array_equal(to_numpy(there[key]), value)


@pytest.mark.parametrize("name", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_other_generators_draw_on_the_host(kernels: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    feeder, asked = NoiseFeeder(get_backend()), []
    monkeypatch.setattr(feeder, "drawn_there", lambda *draw: asked.append(draw) or kernels.uniform_at_least(*draw))
    ours, theirs = (np.random.Generator(getattr(np.random, name)(7)) for _ in range(2))
    there = feeder.drawn(Dropout(0.5), ours, (9, 5))
    np.testing.assert_array_equal(to_numpy(there), theirs.uniform(size=(9, 5)) >= 0.5)
    assert len(asked) == (name == "PCG64")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_training_is_that_with_masks_from_the_host(kernels: Any, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = np.random.default_rng(0).normal(size=(48, 6)).astype(dtype), np.arange(48) % 3
    losses, states = [], []
    for on_host in (False, True):
        if on_host:
            monkeypatch.setattr(feeding, "optional", lambda kernels, name: None)
        model = Sequential([Dropout(0.1), Dense(8, activation="relu"), Dropout(0.5), Dense(3)], dtype=dtype, rng=0)
        rng = np.random.default_rng(1)
        losses.append(model.fit(X, y, 4, 12, rng=rng)["loss"])
        states.append(rng.bit_generator.state)
    assert losses[0] == losses[1]
    assert states[0] == states[1]
