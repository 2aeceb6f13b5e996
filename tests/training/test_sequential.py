"""Layers in a row: shapes, names, both halves, and a learner's own layer among them."""

from __future__ import annotations

import copy
import io
import json
import pickle
from typing import Any

import numpy as np
import pytest

from dense_xp import (
    SGD,
    Adam,
    BatchNorm,
    Dense,
    Dropout,
    History,
    Layer,
    LayerNorm,
    ReLU,
    Sequential,
    Softmax,
    Tanh,
    get_backend,
    use_backend,
)
from dense_xp.backend import Backend, to_numpy
from dense_xp.layers.contract import is_pure
from tests.comparing import assert_same_kind
from tests.layers.layer_gradients import assert_gradient


def network(backend: Any = None, **kwargs: Any) -> Sequential:
    return Sequential(
        [Dense(5, activation="tanh"), LayerNorm(), Dense(4), ReLU(), Dense(3)],
        input_shape=(2,),
        backend=backend,
        rng=0,
        **kwargs,
    )


class Doubling(Layer):
    """A learner's layer: NumPy, the stateful contract, no call of super().__init__()."""

    def __init__(self) -> None:
        self.scale = np.full((1, 1), 2.0, dtype="float32")

    def initialize(self, optimizer: Any) -> None:
        self.optimizer_for_scale = copy.copy(optimizer)

    def parameters(self) -> int:
        return 1

    def forward_pass(self, X: Any, training: bool = True) -> Any:
        self.layer_input = X
        return X * self.scale

    def backward_pass(self, accum_grad: Any) -> Any:
        scale = self.scale
        grad = np.sum(accum_grad * self.layer_input, keepdims=True)
        if self.trainable:
            self.scale = self.optimizer_for_scale.update(self.scale, grad)
        return accum_grad * scale

    def output_shape(self) -> tuple[int, ...]:
        assert self.input_shape is not None
        return self.input_shape


# ------------------------------------------------------------------ shapes and names


def test_shapes_pass_from_layer_to_layer(backend: Backend) -> None:
    model = network(backend)
    model.initialize("sgd")
    assert [layer.input_shape for layer in model.layers] == [(2,), (5,), (5,), (4,), (4,)]
    assert model.output_shape() == (3,)
    assert model.parameters() == (2 * 5 + 5) + (5 + 5) + (5 * 4 + 4) + (4 * 3 + 3)
    assert type(model.parameters()) is int
    assert_same_kind(model.forward_pass([[1, 2]]), backend, "float32", (1, 3))


def test_the_first_layer_may_know_the_shape() -> None:
    model = Sequential([Dense(4, (2,)), Dense(3)], rng=0)
    model.initialize()
    assert model.input_shape == (2,)


def test_names_are_unique_and_names_of_weights_follow_them() -> None:
    model = Sequential([Dense(4, (2,)), Dense(3, name="head"), Dense(2), ReLU()], rng=0)
    model.initialize()
    assert list(model.weights) == ["dense.W", "dense.w0", "head.W", "head.w0", "dense_1.W", "dense_1.w0"]
    with pytest.raises(ValueError, match="the name 'head' is taken"):
        Sequential([Dense(3, name="head"), Dense(3, name="head")])
    with pytest.raises(ValueError, match="has a dot"):
        Sequential([Dense(3, name="a.b")])


def test_shapes_that_do_not_fit_leave_everything_as_it_was() -> None:
    layers = [Dense(4), Dense(3, (5,))]
    model = Sequential(layers, input_shape=(2,), rng=0)
    before = [dict(vars(layer)) for layer in (model, *layers)]
    with pytest.raises(ValueError, match=r"the layer 'dense_1' has input_shape=\(5,\), and what reaches it has \(4,\)"):
        model.initialize("sgd")
    assert [vars(layer) for layer in (model, *layers)] == before


def test_a_shape_that_nobody_knows() -> None:
    model = Sequential([ReLU(), Dense(3)])
    with pytest.raises(RuntimeError, match="does not know its input shape"):
        model.initialize()
    model.forward_pass([[1, 2]])
    assert model.input_shape == (2,)


@pytest.mark.parametrize("wrong", ["relu", 3, Dense, lambda x: x])
def test_what_is_no_layer(wrong: Any) -> None:
    with pytest.raises(TypeError, match="Sequential takes layers"):
        Sequential([wrong])


def test_the_same_layer_twice_and_late_additions() -> None:
    layer = Dense(2, (2,))
    with pytest.raises(ValueError, match="is in the model already"):
        Sequential([layer, layer])
    model = Sequential([layer])
    model.initialize()
    with pytest.raises(RuntimeError, match="make a new Sequential"):
        model.add(Dense(3))
    with pytest.raises(RuntimeError, match="has no layers"):
        Sequential().initialize()


def test_one_backend_for_all() -> None:
    pytest.importorskip("array_api_strict")
    model = Sequential([Dense(2, (2,), backend="array_api_strict")], backend="numpy")
    with pytest.raises(ValueError, match="all layers of a model share one"):
        model.initialize()
    with use_backend("array_api_strict"):
        model = Sequential([Dense(2, (2,), backend="array_api_strict")])
        model.initialize()
    assert model.backend == get_backend("array_api_strict")


def test_layers_take_dtype_and_seed_of_the_model(backend: Backend) -> None:
    one, two = network(backend, dtype="float64"), network(get_backend("numpy"), dtype="float64")
    one.initialize()
    two.initialize()
    for name, value in one.weights.items():
        assert_same_kind(value, backend, "float64", tuple(value.shape))
        np.testing.assert_array_equal(to_numpy(value), two.weights[name])
    again = network(backend, dtype="float64")
    again.initialize()
    np.testing.assert_array_equal(to_numpy(again.layers[0].W), to_numpy(one.layers[0].W))


# ------------------------------------------------------------------ both halves


def test_gradients_by_random_projection(backend: Backend) -> None:
    model = network(backend, dtype="float64")
    model.initialize()
    assert_gradient(model, backend, np.random.default_rng(1).normal(size=(6, 2)))


def test_stateful_and_pure_are_the_same_numbers(backend: Backend) -> None:
    model = network(backend)
    model.initialize(SGD(0.1))
    params = model.params
    X = backend.asarray(np.random.default_rng(0).normal(size=(4, 2)), "float32")
    G = backend.asarray(np.random.default_rng(1).normal(size=(4, 3)), "float32")
    Y, cache = model.forward(params, X, training=True)
    grad_X, grads = model.backward(params, cache, G)
    np.testing.assert_array_equal(to_numpy(model.forward_pass(X)), to_numpy(Y))
    np.testing.assert_array_equal(to_numpy(model.backward_pass(G)), to_numpy(grad_X))
    expected = to_numpy(params["dense"]["W"]) - np.float32(0.1) * to_numpy(grads["dense"]["W"])
    np.testing.assert_allclose(to_numpy(model.layers[0].W), expected, rtol=1e-6)
    alone = model.parameter_gradients(params, cache, G)
    assert list(alone)
    assert set(alone) == set(grads)
    for key, own in grads.items():
        for name, grad in own.items():
            np.testing.assert_array_equal(to_numpy(alone[key][name]), to_numpy(grad))


def test_frozen_layers_stay_and_later_ones_learn(backend: Backend) -> None:
    model = network(backend)
    model.initialize("adam")
    first, last = model.layers[0], model.layers[-1]
    first.trainable = False
    before = {name: to_numpy(value).copy() for name, value in model.weights.items()}
    model.forward_pass([[1, 2]])
    model.backward_pass([[1, 1, 1]])
    changed = [name for name, value in model.weights.items() if np.any(to_numpy(value) != before[name])]
    assert changed
    assert not any(name.startswith("dense.") for name in changed)
    assert np.any(to_numpy(last.W) != before["dense_2.W"])
    params = model.params
    _, cache = model.forward(params, backend.asarray([[1.0, 2.0]], "float32"))
    grads = model.parameter_gradients(params, cache, backend.asarray([[1.0, 1.0, 1.0]], "float32"))
    assert list(grads)
    assert "dense" not in grads
    for layer in model.layers:
        layer.trainable = False
    assert model.parameter_gradients(params, cache, backend.asarray([[1.0, 1.0, 1.0]], "float32")) == {}


def test_models_within_models(backend: Backend) -> None:
    inner = Sequential([Dense(4), Tanh()])
    model = Sequential([inner, Dropout(0.5), Dense(1)], input_shape=(3,), backend=backend, rng=0)
    model.initialize("adam")
    assert list(model.weights) == ["sequential.dense.W", "sequential.dense.w0", "dense.W", "dense.w0"]
    before = to_numpy(inner.layers[0].W).copy()
    model.forward_pass([[1, 2, 3]])
    model.backward_pass([[1]])
    assert np.any(to_numpy(inner.layers[0].W) != before)
    flat = Sequential([Dense(4), Tanh(), Dropout(0.5), Dense(1)], input_shape=(3,), backend=backend, rng=0)
    flat.initialize("adam")
    flat.forward_pass([[1, 2, 3]])
    flat.backward_pass([[1]])
    for mine, theirs in zip(model.weights.values(), flat.weights.values(), strict=True):
        np.testing.assert_array_equal(to_numpy(mine), to_numpy(theirs))


def test_running_statistics_are_merged(backend: Backend) -> None:
    model = Sequential([BatchNorm()], input_shape=(2,), backend=backend)
    model.initialize("sgd")
    assert model.parameters() == 4
    X = backend.asarray([[0.0, 1.0], [2.0, 5.0]], "float32")
    model.forward_pass(X, training=False)
    np.testing.assert_array_equal(to_numpy(model.weights["batch_norm.running_mean"]), [[0, 0]])
    model.forward_pass(X, training=True)
    np.testing.assert_allclose(to_numpy(model.weights["batch_norm.running_mean"]), [[0.1, 0.3]], rtol=1e-6)


def test_dropout_draws_the_same_bits_on_every_backend(backend: Backend) -> None:
    def output(where: Any) -> Any:
        model = Sequential([Dropout(0.5)], input_shape=(50,), backend=where, rng=1)
        model.initialize()
        ones = model.backend.asarray(np.ones((4, 50)), "float32")  # type: ignore[union-attr]
        assert np.all(to_numpy(model.forward_pass(ones, training=False)) == 1)
        return to_numpy(model.forward_pass(ones))

    np.testing.assert_array_equal(output(backend), output("numpy"))


# ------------------------------------------------------------------ a learner's own layer


def test_a_stateful_layer_is_driven_layer_by_layer() -> None:
    own = Doubling()
    model = Sequential([Dense(3), own, Dense(1)], input_shape=(2,), rng=0)
    assert not is_pure(model)
    assert is_pure(network())
    model.initialize(SGD(0.1))
    assert own.input_shape == (3,)
    assert model.parameters() == 9 + 1 + 4
    W = model.layers[0].W.copy()
    X = np.asarray([[1.0, -1.0]], dtype="float32")
    Y = model.forward_pass(X)
    np.testing.assert_allclose(Y, (X @ W * 2) @ model.layers[2].W, rtol=1e-5)
    V = model.layers[2].W.copy()
    back = model.backward_pass([[1.0]])
    np.testing.assert_allclose(back, (V.T * 2) @ W.T, rtol=1e-5)
    assert own.scale[0, 0] != 2
    np.testing.assert_allclose(model.layers[0].W, W - 0.1 * X.T @ (V.T * 2), rtol=1e-5)


class Theirs:
    """A layer of somebody else, who knows nothing of this package."""

    def set_input_shape(self, shape: Any) -> None:
        self.input_shape = shape

    def initialize(self, optimizer: Any) -> None:
        self.W = np.eye(*self.input_shape, dtype="float32")
        self.W_opt = copy.copy(optimizer)

    def parameters(self) -> Any:
        return np.prod(self.W.shape)

    def forward_pass(self, X: Any, training: bool = True) -> Any:
        self.layer_input = X
        return X.dot(self.W)

    def backward_pass(self, accum_grad: Any) -> Any:
        W = self.W
        self.W = self.W_opt.update(self.W, self.layer_input.T.dot(accum_grad))
        return accum_grad.dot(W.T)

    def output_shape(self) -> Any:
        return self.input_shape


def test_what_has_the_two_passes_becomes_a_layer_as_the_error_says() -> None:
    with pytest.raises(TypeError, match=r"this is a Theirs; .* by inheritance: class Mine\(Theirs, Layer\): pass"):
        Sequential([Dense(3), Theirs()])  # type: ignore[list-item]

    class Mine(Theirs, Layer):  # type: ignore[misc]
        pass

    own = Mine()
    model = Sequential([Dense(3), own, Dense(1)], input_shape=(2,), rng=0)
    X = np.random.default_rng(0).normal(size=(32, 2))
    history = model.fit(X, X[:, :1] - X[:, 1:], 30, 8, optimizer=SGD(0.05))
    assert history["loss"][-1] < 0.01 * history["loss"][0]
    assert not np.array_equal(own.W, np.eye(3))


def test_an_override_of_the_stateful_half_is_not_bypassed() -> None:
    class Loud(Dense):
        calls = 0

        def forward_pass(self, X: Any, training: bool = True) -> Any:
            type(self).calls += 1
            return super().forward_pass(X, training)

    assert not is_pure(Loud(1))

    class Pure(Dense):
        def forward(self, params: Any, X: Any, **kwargs: Any) -> Any:
            return super().forward(params, X, **kwargs)

    assert is_pure(Pure(1))
    model = Sequential([Loud(1)], input_shape=(2,))
    model.fit(np.ones((4, 2)), np.ones(4), epochs=1, batch_size=2)
    assert Loud.calls == 2


# ------------------------------------------------------------------ showing, keeping, moving


def test_summary_is_a_table() -> None:
    model = network()
    text = io.StringIO()
    model.summary(text)
    assert "not initialized" in text.getvalue()
    model.initialize()
    model.layers[0].trainable = False
    text = io.StringIO()
    model.summary(text)
    lines = text.getvalue().splitlines()
    assert lines[2].split() == ["dense", "(Dense,", "Tanh)", "frozen", "(…,", "5)", "15"]
    assert lines[-1] == "64 parameters, float32 on numpy"
    assert len({len(line) for line in lines[:-1]}) == 1
    page, n = model._repr_html_(), len(model.layers)
    assert [page.count(f"<{tag}") for tag in ("table", "tr", "th ", "td ")] == [1, 1 + n, 3, 3 * n]
    assert "64 parameters, float32 on numpy" in page


def test_a_history_is_drawn() -> None:
    figures = pytest.importorskip("matplotlib.figure")
    history = History({"loss": [0.9, 0.5], "val_loss": [1.0, 0.7], "auc": [0.5, 0.6]}, best_epoch=2)
    figure = figures.Figure()
    assert history.plot(figure) is figure
    first, second = figure.axes
    assert [list(line.get_ydata()) for line in first.lines[:2]] == [[0.9, 0.5], [1.0, 0.7]]
    assert (first.get_ylabel(), second.get_ylabel()) == ("loss", "auc")
    assert len(history.plot().axes) == 2  # pyplot's own
    with pytest.raises(ValueError, match="no epoch was completed"):
        History().plot()


def test_config_round_trip_through_json() -> None:
    model = Sequential([network(), Dropout(0.25), Softmax()], input_shape=(2,), name="m", rng=4)
    model.layers[0].trainable = False
    config = json.loads(json.dumps(model.get_config()))
    again = Sequential.from_config(config)
    assert again.get_config() == model.get_config()
    for one in (model, again):
        one.initialize()
    for mine, theirs in zip(model.weights.values(), again.weights.values(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    readable = Sequential([Dense(2), Sequential([ReLU()])], input_shape=(3,), rng=4)
    assert eval(repr(readable)).get_config() == readable.get_config()


def test_only_known_classes_are_made_from_a_config() -> None:
    class Mine(Dense):
        pass

    config = Sequential([Sequential([Mine(2)])]).get_config()
    with pytest.raises(ValueError, match=r"unknown layer class 'Mine'.*custom"):
        Sequential.from_config(config)
    inner = Sequential.from_config(config, custom=[Mine]).layers[0]
    assert isinstance(inner, Sequential)
    assert type(inner.layers[0]) is Mine


def test_pickle_and_deepcopy_keep_the_numbers(backend: Backend) -> None:
    model = network(backend)
    model.initialize(Adam())
    X = [[1, 2], [3, 4]]
    model.forward_pass(X)
    model.backward_pass([[1, 1, 1], [0, 1, 0]])
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(to_numpy(again.forward_pass(X)), to_numpy(model.forward_pass(X)))
        again.backward_pass([[1, 1, 1], [0, 1, 0]])
        assert np.any(to_numpy(again.layers[0].W) != to_numpy(model.layers[0].W))


def test_to_moves_the_whole_model(backend: Backend) -> None:
    model = network("numpy")
    model.initialize("adam")
    X = np.asarray([[1, 2], [3, 4]], dtype="float32")
    model.forward_pass(X)
    model.backward_pass(np.ones((2, 3)))
    expected = model.forward_pass(X)
    model.to(backend)
    assert all(layer.backend == backend for layer in model.layers)
    actual = model.forward_pass(backend.asarray(X))
    assert_same_kind(actual, backend, "float32", (2, 3))
    np.testing.assert_allclose(to_numpy(actual), expected, rtol=1e-5, atol=1e-6)
    model.backward_pass(actual)


def test_set_weights_reaches_the_layers(backend: Backend) -> None:
    model = network(backend)
    model.initialize()
    model.set_weights({"dense.W": np.ones((2, 5))})
    np.testing.assert_array_equal(to_numpy(model.layers[0].W), np.ones((2, 5)))
    with pytest.raises(ValueError, match=r"no weights \['W'\]"):
        model.set_weights({"W": np.ones((2, 5))})
