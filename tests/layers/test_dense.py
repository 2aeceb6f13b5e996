"""Dense: what the reference does, on every backend, and what goes beyond it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from dense_xp import SGD, Adam, Dense, Layer, ReLU, StepSchedule, get_backend
from dense_xp.backend import Backend, BackendError, ForeignArrayError, to_numpy
from tests.comparing import assert_close, assert_same_kind
from tests.layers.layer_gradients import assert_gradient


class PlainSGD:
    """The optimizer of the acceptance test: nothing but update."""

    def update(self, weights: Any, grad: Any) -> Any:
        return weights - 0.01 * grad


def made(backend: Backend, n_units: int = 3, n_in: int = 2, optimizer: Any = None, **kwargs: Any) -> Dense:
    layer = Dense(n_units, (n_in,), backend=backend, rng=kwargs.pop("rng", 0), **kwargs)
    layer.initialize(SGD(0.1) if optimizer is None else optimizer)
    return layer


# ------------------------------------------------------------------ the reference's behaviour


def test_the_reference_numbers(backend: Backend) -> None:
    np.random.seed(42)
    layer = Dense(n_units=3, input_shape=(2,), backend=backend)
    layer.initialize(PlainSGD())
    Y = layer.forward_pass([[1, 2]])
    assert_same_kind(Y, backend, "float32", (1, 3))
    np.testing.assert_allclose(to_numpy(Y), [[0.10162127, -0.33551992, -0.64490545]], rtol=2e-6)
    back = layer.backward_pass([[0.1, 0.2, 0.3]])
    assert_same_kind(back, backend, "float32", (1, 2))
    np.testing.assert_allclose(to_numpy(back), [[0.20816524, -0.22928937]], rtol=2e-6)


def test_initial_weights_are_the_same_bits_everywhere(backend: Backend) -> None:
    np.random.seed(7)
    layer = Dense(5, (4,), backend=backend)
    layer.initialize(None)
    np.random.seed(7)
    expected = np.random.uniform(-1 / np.sqrt(4), 1 / np.sqrt(4), (4, 5)).astype("float32")
    assert_same_kind(layer.W, backend, "float32", (4, 5))
    assert_same_kind(layer.w0, backend, "float32", (1, 5))
    np.testing.assert_array_equal(to_numpy(layer.W), expected)
    np.testing.assert_array_equal(to_numpy(layer.w0), np.zeros((1, 5)))


def test_before_initialize() -> None:
    layer = Dense(3, input_shape=(2,))
    assert (layer.W, layer.w0, layer.n_units, layer.input_shape, layer.trainable) == (None, None, 3, (2,), True)
    assert layer.output_shape() == (3,)
    assert layer.layer_name() == "Dense"
    with pytest.raises(RuntimeError, match=r"call initialize\(optimizer\) first"):
        layer.parameters()
    with pytest.raises(RuntimeError, match=r"call initialize\(optimizer\) first"):
        layer.W = np.ones((2, 3))


def test_parameters_is_a_python_int(backend: Backend) -> None:
    assert made(backend).parameters() == 9
    assert type(made(backend).parameters()) is int
    assert made(backend, use_bias=False).parameters() == 6


def test_the_gradient_goes_through_the_weights_of_the_forward_pass(backend: Backend) -> None:
    """A square W with a large step: the updated W or a missing transpose would show."""
    layer = made(backend, 3, 3, optimizer=SGD(10.0), dtype="float64")
    W = to_numpy(layer.W).copy()
    X = np.asarray([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]])
    G = np.asarray([[1.0, -1.0, 2.0], [0.5, 0.25, -3.0]])
    Y = layer.forward_pass(backend.asarray(X))
    assert_close(Y, X @ W, backend)
    assert_close(layer.backward_pass(backend.asarray(G)), G @ W.T, backend)
    assert_close(layer.W, W - 10.0 * X.T @ G, backend)
    assert_close(layer.w0, -10.0 * G.sum(axis=0, keepdims=True), backend)


def test_even_an_optimizer_that_writes_in_place_does_not_spoil_the_gradient() -> None:
    class InPlace:
        def update(self, weights: Any, grad: Any) -> Any:
            weights -= 10.0 * grad
            return weights

    layer = Dense(3, (3,), rng=0, dtype="float64")
    layer.initialize(InPlace())
    W = layer.W.copy()
    layer.forward_pass(np.ones((2, 3)))
    np.testing.assert_allclose(layer.backward_pass(np.ones((2, 3))), np.ones((2, 3)) @ W.T)


def test_weights_set_after_the_forward_pass_do_not_matter_to_it(backend: Backend) -> None:
    layer = made(backend, optimizer=SGD(0.5), dtype="float64")
    W = to_numpy(layer.W).copy()
    layer.forward_pass([[1.0, 2.0]])
    layer.W = np.ones((2, 3))
    assert_close(layer.backward_pass([[1.0, 0.0, 0.0]]), W[:, :1].T, backend)
    assert_close(layer.W, [[0.5, 1, 1], [0, 1, 1]], backend)  # and the step starts from the new ones


def test_frozen_layers_change_nothing_and_return_the_same_gradient(backend: Backend) -> None:
    layer, frozen = made(backend), made(backend)
    frozen.trainable = False
    for one in (layer, frozen):
        one.forward_pass([[1.0, 2.0]])
    before = {name: to_numpy(value).copy() for name, value in frozen.weights.items()}
    moved = layer.backward_pass([[1.0, 2.0, 3.0]])
    kept = frozen.backward_pass([[1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(to_numpy(moved), to_numpy(kept))
    for name, value in frozen.weights.items():
        np.testing.assert_array_equal(to_numpy(value), before[name])
    assert np.any(to_numpy(layer.W) != before["W"])


def test_the_attributes_of_the_reference(backend: Backend) -> None:
    """The last batch, and an optimizer for each array, whose next update is the layer's own."""
    layer = Dense(3, (2,), backend=backend, rng=0, dtype="float64")
    assert (layer.layer_input, layer.W_opt, layer.w0_opt) == (None, None, None)
    layer.initialize(Adam(StepSchedule(0.1, every=1)))
    for X in (np.ones((4, 2)), np.arange(10.0).reshape(5, 2)):
        Y = layer.forward_pass(backend.asarray(X))
        assert_same_kind(layer.layer_input, backend, "float64", X.shape)
        np.testing.assert_array_equal(to_numpy(layer.layer_input), X)
        grad = {"W": layer.layer_input.T @ Y, "w0": backend.xp.sum(Y, axis=0, keepdims=True)}
        expected = [layer.W_opt.update(layer.W, grad["W"]), layer.w0_opt.update(layer.w0, grad["w0"])]
        layer.backward_pass(Y)  # what was read above has moved nothing of the layer
        for now, wanted in zip((layer.W, layer.w0), expected, strict=True):
            assert_close(now, to_numpy(wanted), backend)
    assert made(backend, use_bias=False).w0_opt is None
    layer.initialize(None)
    assert (layer.layer_input, layer.W_opt) == (None, None)


def test_the_optimizer_of_a_weight_is_the_very_object_that_was_copied_for_it() -> None:
    given = PlainSGD()
    layer = Dense(3, (2,), rng=0)
    layer.initialize(given)
    assert isinstance(layer.W_opt, PlainSGD)
    assert layer.W_opt is layer.optimizer_state["W"]
    assert len({id(given), id(layer.W_opt), id(layer.w0_opt)}) == 3
    for name in ("layer_input", "W_opt", "w0_opt"):
        with pytest.raises(AttributeError):
            setattr(layer, name, None)


def test_each_parameter_has_its_own_copy_of_the_optimizer() -> None:
    class Counting:
        def __init__(self) -> None:
            self.shapes: list[tuple[int, ...]] = []

        def update(self, weights: Any, grad: Any) -> Any:
            self.shapes.append(weights.shape)
            return weights - grad

    given = Counting()
    layer = Dense(3, (2,), rng=0)
    layer.initialize(given)
    for _ in range(2):
        layer.forward_pass(np.ones((1, 2)))
        layer.backward_pass(np.ones((1, 3)))
    assert given.shapes == []
    assert layer.optimizer_state["W"].shapes == [(2, 3)] * 2
    assert layer.optimizer_state["w0"].shapes == [(1, 3)] * 2


def test_sixteen_bits_sum_in_thirty_two(backend: Backend) -> None:
    """4,096 rows of ones: their gradient's sum is exact, where float16 would stop at 2,048."""
    if not hasattr(backend.xp, "float16"):
        pytest.skip(f"{backend} has no float16")
    layer = made(backend, dtype="float16")
    _, cache = layer.forward(layer.params, backend.asarray(np.ones((4096, 2)), "float16"))
    grads = layer.parameter_gradients(layer.params, cache, backend.asarray(np.ones((4096, 3)), "float16"))
    assert_same_kind(grads["w0"], backend, "float16", (1, 3))
    assert np.all(to_numpy(grads["w0"]) == 4096)


def test_the_argument_is_not_written_to_and_dtypes_do_not_drift(backend: Backend) -> None:
    for dtype in ("float32", "float64"):
        layer = made(backend, dtype=dtype, optimizer="adam", activation="gelu")
        X = backend.asarray(np.ones((4, 2)), dtype)
        Y = layer.forward_pass(X)
        back = layer.backward_pass(Y)
        for array, shape in ((Y, (4, 3)), (back, (4, 2)), (layer.W, (2, 3)), (layer.w0, (1, 3))):
            assert_same_kind(array, backend, dtype, shape)
        np.testing.assert_array_equal(to_numpy(X), np.ones((4, 2)))


# ------------------------------------------------------------------ beyond it


@pytest.mark.parametrize("lead", [(), (1,), (5,), (2, 3), (2, 1, 3), (0,), (2, 0)])
def test_any_number_of_leading_axes(backend: Backend, lead: tuple[int, ...]) -> None:
    """The pure functions agree with the sum written out, also for an empty batch."""
    layer = made(backend, dtype="float64")
    rng = np.random.default_rng(1)
    X, G = rng.normal(size=(*lead, 2)), rng.normal(size=(*lead, 3))
    layer.w0 = w0 = rng.normal(size=(1, 3))
    W = to_numpy(layer.W)
    Y, cache = layer.forward(layer.params, backend.asarray(X))
    assert_close(Y, X @ W + w0[0], backend)
    grad_X, grads = layer.backward(layer.params, cache, backend.asarray(G))
    assert_close(grad_X, G @ W.T, backend)
    assert_close(grads["W"], X.reshape(-1, 2).T @ G.reshape(-1, 3), backend)
    assert_close(grads["w0"], G.reshape(-1, 3).sum(axis=0, keepdims=True), backend)
    alone = layer.parameter_gradients(layer.params, cache, backend.asarray(G))
    for name, grad in grads.items():
        np.testing.assert_array_equal(to_numpy(alone[name]), to_numpy(grad))


@pytest.mark.parametrize("activation", [None, "tanh", "softmax"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_gradients_by_random_projection(backend: Backend, activation: Any, use_bias: bool) -> None:
    layer = made(backend, 4, 3, dtype="float64", activation=activation, use_bias=use_bias)
    X = np.random.default_rng(3).normal(size=(5, 3))
    assert_gradient(layer, backend, X)


@pytest.mark.parametrize(
    ("name", "limit"),
    [("glorot_uniform", np.sqrt(6 / 700)), ("he_uniform", np.sqrt(6 / 400)), ("lecun_uniform", np.sqrt(3 / 400))],
)
def test_initializers_by_name(name: str, limit: float) -> None:
    layer = Dense(300, (400,), kernel_initializer=name, rng=0)
    layer.initialize()
    worst = float(np.abs(layer.W).max())
    assert 0.999 * limit < worst <= limit * (1 + 1e-7)


def test_initializers_by_function(backend: Backend) -> None:
    layer = made(backend, kernel_initializer=lambda shape, rng: np.ones(shape), bias_initializer="zeros")
    np.testing.assert_array_equal(to_numpy(layer.W), np.ones((2, 3)))
    layer = Dense(3, (2,), kernel_initializer=lambda shape, rng: np.ones(3))
    with pytest.raises(ValueError, match=r"real numbers of shape \(2, 3\) are needed"):
        layer.initialize()


def test_one_seed_one_layer(backend: Backend) -> None:
    np.testing.assert_array_equal(to_numpy(made(backend, rng=5).W), to_numpy(made(get_backend("numpy"), rng=5).W))
    layer = made(backend, rng=5)
    first = to_numpy(layer.W).copy()
    layer.initialize()
    np.testing.assert_array_equal(to_numpy(layer.W), first)
    assert np.any(to_numpy(made(backend, rng=6).W) != first)


def test_a_first_batch_gives_the_shape_and_no_optimizer_says_so(backend: Backend) -> None:
    layer = Dense(3, backend=backend, rng=0)
    assert tuple(layer.forward_pass([[1, 2, 3, 4]]).shape) == (1, 3)
    assert layer.input_shape == (4,)
    before = layer.W
    with pytest.raises(RuntimeError, match="has no optimizer"):
        layer.backward_pass([[1, 1, 1]])
    assert layer.W is before


def test_config_round_trip() -> None:
    layer = Dense(
        3,
        (2,),
        activation="leaky_relu",
        use_bias=False,
        kernel_initializer="he_normal",
        dtype="float64",
        name="first",
        rng=3,
    )
    layer.trainable = False
    config = json.loads(json.dumps(layer.get_config()))
    again = Dense.from_config(config)
    assert again.get_config() == layer.get_config()
    assert again.trainable is False
    for one in (layer, again):
        one.initialize()
    np.testing.assert_array_equal(layer.W, again.W)


def test_repr_is_what_one_would_type() -> None:
    assert repr(Dense(3)) == "Dense(n_units=3)"
    layer = Dense(3, (2,), activation="relu", rng=0)
    assert repr(layer) == "Dense(n_units=3, activation='relu', input_shape=(2,), rng=0)"
    assert eval(repr(layer)).get_config() == layer.get_config()


def test_an_activation_layer_is_the_activation_by_name(backend: Backend) -> None:
    X = np.random.default_rng(0).normal(size=(4, 2))
    outputs = [to_numpy(made(backend, activation=a).forward_pass(backend.asarray(X))) for a in ("relu", ReLU())]
    np.testing.assert_array_equal(*outputs)
    assert (outputs[0] == 0).any()


# ------------------------------------------------------------------ weights and moving


def test_set_weights_copies_and_converts(backend: Backend) -> None:
    layer = made(backend)
    mine = np.arange(6).reshape(2, 3)
    layer.set_weights({"W": mine, "w0": [[1, 2, 3]]})
    mine[:] = 0
    assert_same_kind(layer.W, backend, "float32", (2, 3))
    np.testing.assert_array_equal(to_numpy(layer.W), np.arange(6).reshape(2, 3))
    assert set(layer.weights) == {"W", "w0"}
    layer.set_weights(layer.weights)
    np.testing.assert_array_equal(to_numpy(layer.W), np.arange(6).reshape(2, 3))


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"w0": np.ones((1, 3)), "W": np.ones((3, 2))}, r"W has shape \(2, 3\), and the new value has \(3, 2\)"),
        ({"w0": np.ones(3)}, r"w0 has shape \(1, 3\), and the new value has \(3,\)"),
        ({"w0": np.ones((1, 3)), "b": 1}, r"no weights \['b'\]; it has \['W', 'w0'\]"),
    ],
)
def test_wrong_weights_replace_nothing(backend: Backend, weights: dict[str, Any], says: str) -> None:
    layer = made(backend)
    before = layer.weights
    with pytest.raises(ValueError, match=says):
        layer.set_weights(weights)
    assert all(layer.weights[name] is before[name] for name in before)


def test_to_moves_weights_and_optimizer_state(backend: Backend) -> None:
    layer = made(get_backend("numpy"), optimizer="adam")
    layer.forward_pass(np.ones((2, 2)))
    layer.backward_pass(np.ones((2, 3)))
    stayed = Dense(3, (2,), rng=0, backend="numpy")
    stayed.initialize("adam")
    stayed.set_weights(layer.weights)
    stayed.optimizer_state, stayed.steps = dict(layer.optimizer_state), layer.steps
    assert layer.to(backend) is layer
    assert layer.backend == backend
    assert_same_kind(layer.W, backend, "float32", (2, 3))
    with pytest.raises(RuntimeError, match="needs a forward_pass"):
        layer.backward_pass([[1, 1, 1]])
    for one in (layer, stayed):
        one.forward_pass([[1, 2]])
        one.backward_pass([[1, -1, 2]])
    np.testing.assert_allclose(to_numpy(layer.W), stayed.W, rtol=1e-6)


# ------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize("n_units", [0, -1, 2.5, "3", True, None])
def test_wrong_numbers_of_units(n_units: Any) -> None:
    with pytest.raises(ValueError, match="n_units must be a positive integer"):
        Dense(n_units)


@pytest.mark.parametrize("shape", [(), (2, 3), (0,), (-1,), (2.5,), "ab"])
def test_wrong_input_shapes(shape: Any) -> None:
    with pytest.raises(ValueError, match=r"input_shape must be \(n_features,\)"):
        Dense(3, shape)


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"activation": "rleu"}, ValueError, "relu"),
        ({"kernel_initializer": "glorot"}, ValueError, "glorot_"),
        ({"dtype": "int32"}, ValueError, "real floating"),
        ({"rng": "seed"}, TypeError, "rng is a seed"),
    ],
)
def test_wrong_arguments(kwargs: dict[str, Any], error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        Dense(3, (2,), **kwargs)


def test_initialize_without_a_shape_leaves_the_layer_as_it_was() -> None:
    layer = Dense(3)
    before = dict(vars(layer))
    with pytest.raises(RuntimeError, match=r"Dense does not know its input shape: pass input_shape="):
        layer.initialize("sgd")
    assert vars(layer) == before


def test_a_wrong_optimizer_leaves_the_layer_as_it_was(backend: Backend) -> None:
    layer = made(backend)
    before = dict(vars(layer))
    with pytest.raises(TypeError, match="update"):
        layer.initialize(3)
    with pytest.raises(ValueError, match="adam"):
        layer.initialize("adma")
    assert vars(layer) == before


def test_backward_before_forward(backend: Backend) -> None:
    with pytest.raises(RuntimeError, match="backward_pass needs a forward_pass before it"):
        made(backend).backward_pass([[1, 1, 1]])


@pytest.mark.parametrize(
    ("X", "says"),
    [
        ([[1, 2, 3]], r"X has shape \(1, 3\) and Dense expects \(\.\.\., 2\)"),
        (1.0, r"X has shape \(\) and Dense expects"),
        (np.ones((0, 2)).tolist(), r"expects|empty"),
    ],
)
def test_wrong_batches_leave_the_layer_as_it_was(backend: Backend, X: Any, says: str) -> None:
    layer = made(backend)
    layer.forward_pass([[1, 2]])
    before = dict(vars(layer))
    with pytest.raises(ValueError, match=says):
        layer.forward_pass(X)
    assert vars(layer) == before


def test_an_empty_batch(backend: Backend) -> None:
    layer = made(backend)
    with pytest.raises(ValueError, match=r"X has shape \(0, 2\): the batch is empty\. Skip empty batches"):
        layer.forward_pass(backend.asarray(np.ones((0, 2)), "float32"))


def test_wrong_gradients_leave_the_layer_as_it_was(backend: Backend) -> None:
    layer = made(backend)
    layer.forward_pass([[1, 2]])
    before = dict(vars(layer))
    with pytest.raises(ValueError, match=r"accum_grad has shape \(1, 2\), and the output .* had \(1, 3\)"):
        layer.backward_pass([[1, 1]])
    assert vars(layer) == before


def test_foreign_arrays_leave_the_layer_as_it_was(backend: Backend) -> None:
    foreign: Any = np.ones((1, 2))
    if backend.name == "numpy":
        foreign = pytest.importorskip("array_api_strict").ones((1, 2))
    layer = made(backend)
    before = dict(vars(layer))
    with pytest.raises(ForeignArrayError, match="move the data with"):
        layer.forward_pass(foreign)
    assert vars(layer) == before


def test_an_unknown_backend_leaves_the_layer_as_it_was() -> None:
    layer = Dense(3, (2,), backend="nmpy")
    before = dict(vars(layer))
    with pytest.raises(BackendError, match="did you mean 'numpy'"):
        layer.initialize("sgd")
    assert vars(layer) == before


def test_a_shape_cannot_change_once_initialized(backend: Backend) -> None:
    layer = made(backend)
    layer.set_input_shape((2,))
    with pytest.raises(ValueError, match="make a new layer"):
        layer.set_input_shape((3,))


@pytest.mark.parametrize("wrong", [np.ones(3), np.ones((2, 3), "complex128")])
def test_an_optimizer_that_returns_nonsense_changes_nothing(wrong: Any) -> None:
    class Nonsense:
        def update(self, weights: Any, grad: Any) -> Any:
            return wrong

    layer = Dense(3, (2,), rng=0)
    layer.initialize(Nonsense())
    before = layer.W
    layer.forward_pass(np.ones((1, 2)))
    with pytest.raises((ValueError, TypeError), match="Nonsense"):
        layer.backward_pass(np.ones((1, 3)))
    assert layer.W is before


def test_a_layer_without_any_half_says_what_to_write() -> None:
    class Empty(Layer):
        pass

    layer = Empty()
    with pytest.raises(NotImplementedError, match="Empty writes neither forward and backward"):
        layer.forward_pass([[1.0]])


def test_the_name_is_kept() -> None:
    assert Dense(2, name="head").name == "head"
    assert Dense(2, name="head").layer_name() == "head"


def test_both_initializers_draw_from_the_seed() -> None:
    draws = []
    for seed in (1, 1, 2):
        layer = Dense(3, (2,), bias_initializer="random_normal", rng=seed)
        layer.initialize()
        draws.append((layer.W, layer.w0))
    for part in range(2):
        np.testing.assert_array_equal(draws[0][part], draws[1][part])
        assert np.any(draws[0][part] != draws[2][part])


def test_the_activation_is_told_all_that_a_layer_is_told() -> None:
    seen: list[Any] = []

    class Watching(Layer):
        def forward(self, params: Any, X: Any, *, training: bool = False, noise: Any = None) -> Any:
            seen.append((params, training))
            return X, "kept"

        def backward(self, params: Any, cache: Any, grad_Y: Any) -> Any:
            seen.append((params, cache))
            return grad_Y, {}

    layer = Dense(3, (2,), activation=Watching(), rng=0)
    layer.initialize("sgd")
    layer.forward_pass([[1.0, 2.0]])
    layer.backward_pass([[1.0, 1.0, 1.0]])
    layer.forward_pass([[1.0, 2.0]], training=False)
    assert seen == [({}, True), ({}, "kept"), ({}, False)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"n_units": 3, "units": 4}, "Dense has no setting 'units'; known are activation"),
        ({"use_bias": False}, "the settings of Dense have no 'n_units'"),
        (3.5, r"the settings of Dense are a dict, and this is 3\.5"),
        ({"n_units": 3, "activation": {"class": "ReLU"}}, "the settings of a layer have no 'config'"),
        ({"n_units": 3, "activation": {"class": [], "config": {}}}, r"unknown layer class \[\]"),
        ({"n_units": 3, "regularizers": 1.0}, "the settings of regularizers are a dict"),
        ({"n_units": 3, "trainable": "no"}, "trainable is True or False"),
        ({"n_units": 3, "name": True}, "the name of a layer is a text"),
    ],
)
def test_a_configuration_that_is_none(config: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Dense.from_config(config)
