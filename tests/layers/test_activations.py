"""Activations: torch's values, derivatives of the function that is computed, and names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dense_xp import (
    ELU,
    GELU,
    SELU,
    Dense,
    Dropout,
    Layer,
    LeakyReLU,
    Mish,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from dense_xp.backend import Backend, to_numpy
from dense_xp.layers.activations import ACTIVATIONS, Activation, activation_config, get_activation
from tests.comparing import assert_close, assert_same_kind
from tests.layers.layer_gradients import assert_gradient

X = np.concatenate([np.random.default_rng(0).normal(size=40) * 3, np.linspace(-20, 20, 10)]).reshape(5, 10)
EACH = [pytest.param(kind, id=name) for name, kind in ACTIVATIONS.items()]
ELEMENTWISE = [pytest.param(kind, id=name) for name, kind in ACTIVATIONS.items() if kind is not Softmax]


def both(layer: Layer, backend: Backend, x: Any, dtype: str = "float64") -> tuple[Any, Any]:
    """Return the value, and the derivative times one."""
    Y, cache = layer.forward({}, backend.asarray(x, dtype))
    return Y, layer.backward({}, cache, backend.asarray(np.ones(np.shape(x)), dtype))[0]


@pytest.mark.parametrize(
    ("layer", "theirs"),
    [
        (ReLU(), lambda f, x: f.relu(x)),
        (LeakyReLU(), lambda f, x: f.leaky_relu(x)),
        (LeakyReLU(0.3), lambda f, x: f.leaky_relu(x, 0.3)),
        (ELU(), lambda f, x: f.elu(x)),
        (ELU(0.5), lambda f, x: f.elu(x, 0.5)),
        (GELU(), lambda f, x: f.gelu(x)),
        (SiLU(), lambda f, x: f.silu(x)),
        (SELU(), lambda f, x: f.selu(x)),
        (Mish(), lambda f, x: f.mish(x)),
        (Tanh(), lambda f, x: x.tanh()),
        (Sigmoid(), lambda f, x: x.sigmoid()),
        (Softplus(), lambda f, x: f.softplus(x, threshold=1000)),
        (Softmax(), lambda f, x: f.softmax(x, dim=-1)),
    ],
    ids=lambda case: repr(case) if isinstance(case, Layer) else "",
)
def test_values_and_gradients_are_those_of_torch(backend: Backend, layer: Layer, theirs: Any) -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor(X, requires_grad=True)
    expected = theirs(torch.nn.functional, x)
    G = np.random.default_rng(1).normal(size=X.shape)
    expected.backward(torch.tensor(G))
    Y, cache = layer.forward({}, backend.asarray(X))
    assert_close(Y, expected.detach().numpy(), backend)
    grad_X, grads = layer.backward({}, cache, backend.asarray(G))
    assert_close(grad_X, x.grad.numpy(), backend)
    assert grads == {}


@pytest.mark.parametrize("kind", EACH)
def test_gradients_by_random_projection(backend: Backend, kind: type[Layer]) -> None:
    layer = kind(input_shape=(4,), dtype="float64", backend=backend)
    layer.initialize()
    assert layer.parameters() == 0
    assert layer.output_shape() == (4,)
    assert_gradient(layer, backend, np.random.default_rng(2).normal(size=(3, 4)) * 2)


@pytest.mark.parametrize(
    ("layer", "value", "slope"),
    [
        (ReLU(), 0, 0),
        (LeakyReLU(0.25), 0, 0.25),
        (ELU(2.0), 0, 2),
        (GELU(), 0, 0.5),
        (SiLU(), 0, 0.5),
        (SELU(), 0, 1.0507009873554805 * 1.6732632423543772),
        (Mish(), 0, 0.6),
        (Tanh(), 0, 1),
        (Sigmoid(), 0.5, 0.25),
        (Softplus(), np.log(2), 0.5),
    ],
    ids=lambda case: repr(case) if isinstance(case, Layer) else "",
)
def test_value_and_slope_at_zero(backend: Backend, layer: Layer, value: float, slope: float) -> None:
    Y, grad = both(layer, backend, np.zeros(1))
    assert_close(Y, [value], backend, ulps=4)
    assert_close(grad, [slope], backend, ulps=8)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("kind", EACH)
def test_the_dtype_stays_and_the_argument_too(backend: Backend, kind: type[Layer], dtype: str) -> None:
    if not hasattr(backend.xp, dtype):
        pytest.skip(f"{backend} has no {dtype}")
    x = backend.asarray(X.astype(dtype), dtype)
    Y, cache = kind().forward({}, x)
    assert_same_kind(Y, backend, dtype, X.shape)
    assert_same_kind(kind().backward({}, cache, Y)[0], backend, dtype, X.shape)
    np.testing.assert_array_equal(to_numpy(x), X.astype(dtype))


@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_huge_numbers_and_nan(backend: Backend, kind: type[Layer]) -> None:
    """Far right all are the identity or 1, far left 0, minus a slope or -1; nothing overflows; NaN stays NaN."""
    Y, grad = (to_numpy(part) for part in both(kind(), backend, [1e30, -1e30, np.nan], "float32"))
    flat = kind in (Tanh, Sigmoid)
    slope = SELU.scale if kind is SELU else 1
    assert Y[0] == np.float32(1 if flat else slope * 1e30)
    assert grad[0] == np.float32(0 if flat else slope)
    left = {LeakyReLU: -1e28, ELU: -1, SELU: -SELU.scale * SELU.alpha, Tanh: -1}.get(kind, 0)
    np.testing.assert_allclose(Y[1], left, rtol=1e-6)
    np.testing.assert_allclose(grad[1], 0.01 if kind is LeakyReLU else 0, rtol=1e-6)
    assert np.isnan(Y[2])


def test_the_derivative_of_softmax_is_the_whole_matrix(backend: Backend) -> None:
    for shape in ((4,), (2, 4), (2, 3, 4)):
        x, G = (np.random.default_rng(seed).normal(size=shape) for seed in (0, 1))
        p = np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
        matrix = p[..., None] * (np.eye(4) - p[..., None, :])
        Y, cache = Softmax().forward({}, backend.asarray(x))
        assert_close(Y, p, backend)
        grad_X, _ = Softmax().backward({}, cache, backend.asarray(G))
        assert_close(grad_X, np.einsum("...ij,...i->...j", matrix, G), backend)


# ------------------------------------------------------------------ names, and what is refused


@pytest.mark.parametrize("layer", [*(kind() for kind in ACTIVATIONS.values()), LeakyReLU(0.3), ELU(2.0)])
def test_configurations_go_there_and_back(layer: Layer) -> None:
    again = get_activation(activation_config(layer))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
    assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()


def test_names() -> None:
    for name, kind in ACTIVATIONS.items():
        assert type(get_activation(name)) is kind
        assert activation_config(kind()) == name
    assert get_activation(None) is None
    assert get_activation("linear") is None
    assert activation_config(None) is None
    assert repr(LeakyReLU(0.3)) == "LeakyReLU(negative_slope=0.3)"
    assert repr(ReLU(name="first")) == "ReLU(name='first')"


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("rleu", ValueError, r"^unknown activation 'rleu'; did you mean 'relu'\? Known: relu, leaky_relu, "),
        (
            "zzz",
            ValueError,
            r"^unknown activation 'zzz'\. Known: relu, .*, softmax, linear, or a layer without parameters$",
        ),
        (ReLU, TypeError, r"pass ReLU\(\.\.\.\)"),
        (
            abs,
            TypeError,
            "^an activation is a name or a layer without parameters, and this is <built-in function abs>$",
        ),
        (Dense(3), ValueError, r"^Dense cannot be an activation, .*: put it after this layer in a Sequential$"),
        (Dropout(0.5), ValueError, "Dropout cannot be an activation"),
        (Layer(), ValueError, "Layer cannot be an activation"),
        ({"class": "Dense", "config": {"n_units": 3}}, ValueError, "Dense cannot be an activation"),
    ],
)
def test_what_is_no_activation(spec: Any, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        get_activation(spec)


@pytest.mark.parametrize(("kind", "name"), [(LeakyReLU, "negative_slope"), (ELU, "alpha")])
def test_arguments_that_are_no_numbers(kind: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a number that is finite, and is 'steep'"):
        kind("steep")


def test_an_activation_of_ones_own(backend: Backend) -> None:
    class Square(Activation):
        def function(self, X: Any) -> Any:
            return X * X, X

        def derivative(self, cache: Any) -> Any:
            return 2.0 * cache

    layer = Dense(3, (2,), activation=Square(), backend=backend, dtype="float64", rng=0)
    layer.initialize()
    assert_gradient(layer, backend, np.random.default_rng(0).normal(size=(4, 2)))
    with pytest.raises(NotImplementedError, match="Activation has no function"):
        Activation().forward({}, X)
    with pytest.raises(NotImplementedError, match="Activation has no derivative"):
        Activation().backward({}, X, X)
