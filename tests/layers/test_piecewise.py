"""Piecewise-linear encoding: the paper's formula, edges from the data, and a layer like the others around it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dense_xp import Adam, Dense, PiecewiseLinear, Sequential, load, quantile_edges, save, to_numpy
from dense_xp.backend import Backend
from tests.comparing import assert_close
from tests.layers.layer_gradients import assert_gradient

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)) * [1, 10, 0.1] + [0, 5, -2]
EDGES = [(-1.0, 0.0, 0.25, 1.0), (0.0, 1.0), (-2.1, -2.0, -1.9)]


def by_the_formula(x: float, edges: Any) -> list[float]:
    """Equation 1 of the paper, case by case."""
    encoded = []
    for t in range(1, len(edges)):
        if x < edges[t - 1] and t > 1:
            encoded.append(0.0)
        elif x >= edges[t] and t < len(edges) - 1:
            encoded.append(1.0)
        else:
            encoded.append((x - edges[t - 1]) / (edges[t] - edges[t - 1]))
    return encoded


def made(backend: Any = "numpy", **kwargs: Any) -> PiecewiseLinear:
    layer = PiecewiseLinear(EDGES, backend=backend, dtype="float64", **kwargs)
    layer.initialize()
    return layer


@pytest.mark.parametrize("lead", [(), (40,), (5, 8)])
def test_the_formula(backend: Backend, lead: tuple[int, ...]) -> None:
    given = np.resize(X, (*lead, 3))
    expected = [
        [e for x, own in zip(row, EDGES, strict=True) for e in by_the_formula(x, own)] for row in given.reshape(-1, 3)
    ]
    Y = made(backend).forward_pass(backend.asarray(given, "float64"))
    assert_close(Y, np.reshape(expected, (*lead, 6)), backend, ulps=4)


def test_edges_are_met_exactly(backend: Backend) -> None:
    layer = made(backend)
    at = np.asarray([[edge, 7.5, -2.0] for edge in EDGES[0]])
    Y = to_numpy(layer.forward_pass(backend.asarray(at, "float64")))
    np.testing.assert_array_equal(Y[:, :3], np.tri(4, 3, -1))
    np.testing.assert_array_equal(Y[:, 3], 7.5)


@pytest.mark.parametrize("lead", [(40,), (5, 8)])
def test_gradients(backend: Backend, lead: tuple[int, ...]) -> None:
    assert_gradient(made(backend), backend, np.resize(X, (*lead, 3)))


def test_on_an_edge_the_bin_above_counts(backend: Backend) -> None:
    layer = made(backend)
    layer.forward_pass(backend.asarray([[0.0, 0.0, -2.0]], "float64"))
    grad = to_numpy(layer.backward_pass(backend.asarray([[1.0, 10.0, 100.0, 1.0, 1.0, 10.0]], "float64")))
    np.testing.assert_allclose(grad, [[10 / 0.25, 1, 10 / (EDGES[2][2] - EDGES[2][1])]])


def test_no_gradient_moves_it() -> None:
    layer = made()
    layer.set_optimizer("adam")
    before = {name: value.copy() for name, value in layer.weights.items()}
    layer.forward_pass(X)
    layer.backward_pass(np.ones((40, 6)))
    assert layer.parameters() == 0
    for name, value in layer.weights.items():
        np.testing.assert_array_equal(value, before[name])


# ------------------------------------------------------------------ where the edges come from


def test_bins_hold_equally_many_rows() -> None:
    values = RNG.permutation(np.arange(1000.0))[:, None]
    (edges,) = quantile_edges(values, 10)
    counts, _ = np.histogram(values, edges)
    assert len(edges) == 11
    assert counts.min() >= 99
    assert counts.max() <= 101
    assert (edges[0], edges[-1]) == (0.0, 999.0)


def test_columns_with_few_numbers() -> None:
    n = 60
    columns = {
        "binary": (RNG.integers(0, 2, n), (0, 1)),
        "two others": (np.where(RNG.uniform(size=n) < 0.5, -3.0, 5.0), (-3, 5)),
        "constant": (np.full(n, 7.0), (7, 14)),
        "few": (np.resize([3, 1, 2, 8], n), (1, 2, 3, 8)),
    }
    data = np.stack([values for values, _ in columns.values()], axis=1).astype("float64")
    assert quantile_edges(data, 4) == [expected for _, expected in columns.values()]
    layer = PiecewiseLinear.from_data(data, 4, dtype="float64")
    layer.initialize()
    Y = layer.forward_pass(data)
    np.testing.assert_array_equal(Y[:, 0], data[:, 0])
    np.testing.assert_array_equal(Y[:, 1], data[:, 1] == 5)
    np.testing.assert_array_equal(Y[:, 2], 0)
    assert layer.output_shape() == (1 + 1 + 1 + 3,)


def test_mostly_one_number_leaves_few_bins() -> None:
    values = np.concatenate([np.zeros(990), np.arange(1.0, 11.0)])[:, None]
    assert quantile_edges(values, 5) == [(0, 10)]


def test_other_columns_pass_as_they_are() -> None:
    layer = PiecewiseLinear.from_data(X, 8, columns=[2], dtype="float64")
    layer.initialize()
    np.testing.assert_array_equal(layer.forward_pass(X)[:, :2], X[:, :2])
    assert layer.output_shape() == (10,)


@pytest.mark.parametrize("n_bins", [3, 100])
def test_a_weight_of_two_is_two_rows(n_bins: int) -> None:
    values, weight = RNG.normal(size=(200, 2)), RNG.integers(0, 4, 200)
    assert quantile_edges(values, n_bins, sample_weight=weight) == quantile_edges(np.repeat(values, weight, 0), n_bins)
    assert quantile_edges(values, n_bins, sample_weight=weight) != quantile_edges(values, n_bins)


def test_rows_may_lie_anywhere(backend: Backend) -> None:
    data = X.astype("float32")
    expected = quantile_edges(data, 5)
    assert quantile_edges(backend.asarray(data), 5) == expected
    assert all(np.float32(edge) == edge for own in expected for edge in own)
    thin = np.where(np.abs(X) > 1, X, 0)
    sparse = pytest.importorskip("scipy.sparse")
    assert quantile_edges(sparse.csr_array(thin), 5) == quantile_edges(thin, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PiecewiseLinear([]), "at least one feature"),
        (lambda: PiecewiseLinear([(0, 1), (1,)]), r"edges\[1\] must be two or more finite numbers that ascend"),
        (lambda: PiecewiseLinear([(0, 0)]), "ascend"),
        (lambda: PiecewiseLinear([(0, np.nan)]), r"each of edges\[0\] must be a number that is finite"),
        (lambda: PiecewiseLinear([(-1.7e308, 1.7e308)]), "finite"),
        (lambda: PiecewiseLinear([0, 1]), r"edges\[0\] must be a list"),
        (lambda: PiecewiseLinear([(0, 1)], input_shape=(2,)), "has edges for 1 features, and the input has"),
        (lambda: quantile_edges(X, 0), "n_bins must be a positive integer"),
        (lambda: quantile_edges(X[0]), "learned from"),
        (lambda: quantile_edges(X[:0]), "learned from"),
        (lambda: quantile_edges(X, columns=[3]), r"X has 3 columns, and these are not there: \[3\]"),
        (lambda: quantile_edges(np.asarray([[1.0, np.inf]])), "column 1 of X has numbers that are not finite"),
        (lambda: quantile_edges(X, sample_weight=np.zeros(40)), "sample_weight must be 40 numbers"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


# ------------------------------------------------------------------ in a network


def network(backend: Any, dtype: str = "float32") -> Sequential:
    layers = [PiecewiseLinear.from_data(X, 8), Dense(16, activation="relu"), Dense(1)]
    return Sequential(layers, backend=backend, dtype=dtype, rng=0)


def test_a_network_learns_what_it_could_not(backend: Backend) -> None:
    """A line is no match for a corner, and the encoding has many."""
    y = np.abs(X[:, 0])
    encoding = PiecewiseLinear.from_data(X, 8)
    encoded, plain = (Sequential(layers, backend=backend, rng=0) for layers in ([encoding, Dense(1)], [Dense(1)]))
    losses = [model.fit(X, y, 150, 40, optimizer=Adam(0.1), verbose=False)["loss"][-1] for model in (encoded, plain)]
    assert losses[0] < 0.5 * losses[1]


def test_it_is_saved_and_made_anew(backend: Backend, tmp_path: Path) -> None:
    model = network(backend)
    model.fit(X, X[:, :1], 2, 8, verbose=False)
    save(model, tmp_path / "m")
    for other in (load(tmp_path / "m", backend), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(to_numpy(other.predict(X)), to_numpy(model.predict(X)))
        assert other.layers[0].edges == model.layers[0].edges
    again = Sequential.from_config(model.get_config())
    again.initialize()
    for name, value in again.layers[0].weights.items():
        np.testing.assert_array_equal(to_numpy(value), to_numpy(model.layers[0].weights[name]))


def test_a_file_with_features_that_are_not_there_is_refused() -> None:
    layer = made()
    column = np.where(layer.weights["column"] == 2, 3, layer.weights["column"])
    with pytest.raises(ValueError, match="'column' of PiecewiseLinear does not fit its edges"):
        PiecewiseLinear(EDGES).build(params={**layer.params, "column": column})


def test_all_libraries_predict_the_same(backend: Backend) -> None:
    expected = network("numpy", "float64")
    expected.initialize()
    model = network(backend, "float64")
    model.initialize()
    np.testing.assert_allclose(to_numpy(model.predict(X)), expected.predict(X), rtol=1e-12, atol=1e-14)
    assert repr(model.layers[0]) == "PiecewiseLinear(3 features, 24 bins)"
