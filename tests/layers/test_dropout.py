"""Dropout: how much, which, and when."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dense_xp import Dropout
from dense_xp.backend import Backend, to_numpy
from tests.comparing import assert_same_kind
from tests.layers.layer_gradients import assert_gradient


def made(backend: Backend, rate: float, n: int = 50, **kwargs: Any) -> Dropout:
    layer = Dropout(rate, input_shape=(n,), backend=backend, rng=0, **kwargs)
    layer.initialize()
    return layer


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_share_and_scale(backend: Backend, rate: float) -> None:
    """Each number is 0 or scaled by 1/(1 - rate); the share is within five standard deviations."""
    layer, n = made(backend, rate), 200 * 50
    Y = layer.forward_pass(backend.asarray(np.full((200, 50), 3.0), "float32"))
    assert_same_kind(Y, backend, "float32", (200, 50))
    values = to_numpy(Y)
    np.testing.assert_allclose(values[values != 0], 3 / (1 - rate), rtol=2e-7)
    assert abs(np.mean(values == 0) - rate) < 5 * math.sqrt(rate * (1 - rate) / n)


def test_the_way_back_leaves_out_the_same_numbers(backend: Backend) -> None:
    layer = made(backend, 0.5)
    Y = to_numpy(layer.forward_pass(backend.asarray(np.ones((4, 50)), "float32")))
    back = to_numpy(layer.backward_pass(backend.asarray(np.full((4, 50), 0.5), "float32")))
    assert 0 < np.sum(Y == 0) < Y.size
    np.testing.assert_array_equal(back, 0.5 * Y)


def test_steps_differ_and_a_seed_repeats(backend: Backend) -> None:
    x = backend.asarray(np.ones((4, 50)), "float32")
    one, two = made(backend, 0.5), made(backend, 0.5)
    first, second = (to_numpy(one.forward_pass(x)).copy() for _ in "ab")
    assert np.any(first != second)
    np.testing.assert_array_equal(to_numpy(two.forward_pass(x)), first)


def test_outside_of_training_nothing_is_dropped(backend: Backend) -> None:
    layer = made(backend, 0.5)
    x = backend.asarray(np.ones((4, 50)), "float32")
    np.testing.assert_array_equal(to_numpy(layer.forward_pass(x, training=False)), np.ones((4, 50)))
    np.testing.assert_array_equal(to_numpy(layer.backward_pass(x)), np.ones((4, 50)))


def test_a_rate_of_zero_is_the_identity_and_draws_nothing() -> None:
    layer = Dropout(0)
    assert layer.draw_noise(np.random.default_rng(0), (3, 2)) is None
    Y, cache = layer.forward({}, np.ones((3, 2)), training=True)
    np.testing.assert_array_equal(Y, np.ones((3, 2)))
    np.testing.assert_array_equal(layer.backward({}, cache, Y)[0], Y)


def test_noise_is_booleans_of_the_shape_of_the_batch() -> None:
    noise = Dropout(0.25).draw_noise(np.random.default_rng(0), (300, 40))
    assert noise.dtype == bool
    assert noise.shape == (300, 40)
    assert abs(noise.mean() - 0.75) < 5 * math.sqrt(0.25 * 0.75 / noise.size)
    assert Dropout(0.25).draw_noise(np.random, (2, 3)).shape == (2, 3)


def test_gradient_by_random_projection(backend: Backend) -> None:
    layer = made(backend, 0.4, 6, dtype="float64")
    noise = backend.asarray(layer.draw_noise(np.random.default_rng(1), (5, 6)))
    assert_gradient(layer, backend, np.random.default_rng(2).normal(size=(5, 6)), training=True, noise=noise)


def test_infinite_numbers_that_are_dropped_are_zero(backend: Backend) -> None:
    layer = Dropout(0.5)
    keep = backend.asarray(np.asarray([[False, True]]))
    Y, _ = layer.forward({}, backend.asarray(np.asarray([[np.inf, 1.0]])), training=True, noise=keep)
    np.testing.assert_array_equal(to_numpy(Y), [[0, 2]])


def test_training_without_noise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Dropout needs its random numbers in training: pass noise=layer.draw_noise"):
        Dropout(0.5).forward({}, np.ones((2, 3)), training=True)


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, "half", True, None])
def test_rates_out_of_range(rate: Any) -> None:
    with pytest.raises(ValueError, match="rate must be a number, at least 0 and below 1, and is"):
        Dropout(rate)


def test_configuration() -> None:
    layer = Dropout(0.25, name="d")
    assert Dropout.from_config(layer.get_config()).get_config() == layer.get_config()
    assert repr(layer) == "Dropout(rate=0.25, name='d')"
