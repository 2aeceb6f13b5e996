"""Robust scaling: medians and quartiles, a smooth limit, and a layer like the others around it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dense_xp import Dense, RobustScale, Sequential, load, save, to_numpy
from dense_xp.backend import Backend
from tests.comparing import assert_close
from tests.layers.layer_gradients import assert_gradient

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)) * [1, 10, 0.1] + [0, 5, -2]


def made(backend: Any = "numpy", dtype: str = "float64") -> RobustScale:
    layer = RobustScale([0.0, 5.0, -2.0], [1.0, 10.0, 0.1], limit=2.0, backend=backend, dtype=dtype)
    layer.initialize()
    return layer


@pytest.mark.parametrize("lead", [(), (40,), (5, 8)])
def test_the_formula(backend: Backend, lead: tuple[int, ...]) -> None:
    given = np.resize(X, (*lead, 3))
    t = (given - [0, 5, -2]) / [1, 10, 0.1]
    assert_close(
        made(backend).forward_pass(backend.asarray(given, "float64")), t / np.hypot(1, t / 2), backend, ulps=16
    )


@pytest.mark.parametrize("lead", [(40,), (5, 8)])
def test_gradients(backend: Backend, lead: tuple[int, ...]) -> None:
    assert_gradient(made(backend), backend, np.resize(X, (*lead, 3)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_is_far_out_stays_within_the_limit(dtype: str) -> None:
    layer = made(dtype=dtype)
    far = np.asarray([[1e4, 0, 0], [-np.inf, 5, 5], [np.inf, 5, 5]]).astype(dtype)
    Y = layer.forward_pass(far)
    np.testing.assert_allclose(Y[:, 0], [2, -2, 2], rtol=1e-3)
    assert (layer.backward_pass(np.ones_like(far))[:, 0] == 0).all()
    assert np.isnan(layer.forward_pass(np.full((1, 3), np.nan, dtype))).all()


def test_no_gradient_moves_it() -> None:
    layer = made()
    layer.set_optimizer("adam")
    before = {name: value.copy() for name, value in layer.weights.items()}
    layer.forward_pass(X)
    layer.backward_pass(np.ones((40, 3)))
    assert layer.parameters() == 0
    for name, value in layer.weights.items():
        np.testing.assert_array_equal(value, before[name])


def test_units_are_medians_and_quartiles() -> None:
    layer = RobustScale.from_data(X[:39])  # of 39 rows, three are the quartiles
    low, middle, high = np.sort(X[:39], axis=0)[[9, 19, 29]]
    np.testing.assert_array_equal(layer.center, middle)
    np.testing.assert_array_equal(layer.scale, high - low)
    few = np.asarray([[0.0, 7.0, 1.0]] * 9 + [[4.0, 7.0, 3.0]])
    layer = RobustScale.from_data(few)
    assert (layer.center, layer.scale) == ((0, 7, 1), (2, 1, 1))  # half of the range, and 1 for a constant
    assert RobustScale.from_data([[0.0], [1.0]]).center == (0.5,)


def test_a_weight_of_two_is_two_rows() -> None:
    values, weight = RNG.normal(size=(200, 2)), RNG.integers(0, 4, 200)
    weighted, repeated = (RobustScale.from_data(values, sample_weight=weight),
                          RobustScale.from_data(np.repeat(values, weight, axis=0)))  # fmt: skip
    assert (weighted.center, weighted.scale) == (repeated.center, repeated.scale)
    assert weighted.center != RobustScale.from_data(values).center


def test_rows_may_lie_anywhere(backend: Backend) -> None:
    data = X.astype("float32")
    expected = RobustScale.from_data(data).get_config()
    assert RobustScale.from_data(backend.asarray(data)).get_config() == expected
    thin = np.where(np.abs(X) > 1, X, 0)
    sparse = pytest.importorskip("scipy.sparse")
    assert RobustScale.from_data(sparse.csr_array(thin)).get_config() == RobustScale.from_data(thin).get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RobustScale([], []), "give both one for each feature"),
        (lambda: RobustScale([0.0], [1.0, 2.0]), "center has 1 numbers and scale 2"),
        (lambda: RobustScale([0.0], [0.0]), "each of scale must be"),
        (lambda: RobustScale([np.nan], [1.0]), "each of center must be"),
        (lambda: RobustScale([0.0], [1.0], limit=0.0), "limit must be"),
        (lambda: RobustScale([0.0], [1.0], input_shape=(2,)), "scales 1 features, and the input has"),
        (lambda: RobustScale.from_data(X[0]), "learned from"),
        (lambda: RobustScale.from_data(X[:0]), "learned from"),
        (lambda: RobustScale.from_data([[1.0, np.inf]]), "column 1 of X has numbers that are not finite"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_it_is_saved_and_made_anew(backend: Backend, tmp_path: Path) -> None:
    layers = [RobustScale.from_data(X), Dense(16, activation="relu"), Dense(1)]
    model = Sequential(layers, backend=backend, dtype="float32", rng=0)
    model.fit(X, X[:, :1], 2, 8, verbose=False)
    save(model, tmp_path / "m")
    for other in (load(tmp_path / "m", backend), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(to_numpy(other.predict(X)), to_numpy(model.predict(X)))
        assert other.layers[0].get_config() == model.layers[0].get_config()
