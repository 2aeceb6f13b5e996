"""Models from Keras 3: predictions within the bound of its formulas, and the same bits in the weights."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

import numpy as np
import pytest

from dense_xp import (
    ELU,
    GELU,
    BatchNorm,
    Dense,
    Dropout,
    LeakyReLU,
    ReLU,
    Sequential,
    Softmax,
    Softplus,
    Tanh,
    to_numpy,
)
from dense_xp.backend import Backend
from dense_xp.interop import from_keras
from dense_xp.learning.constraints import MaxNorm, MinMaxNorm, NonNegative, UnitNorm
from dense_xp.learning.regularizers import L1, L1L2, L2
from tests.references import check, erf_gelu, folded_batch_norm, plain_softplus

# without a word it asks for TensorFlow; what is read from it is the same on each
os.environ.setdefault("KERAS_BACKEND", "torch" if importlib.util.find_spec("torch") else "numpy")
keras = pytest.importorskip("keras")
layers = keras.layers

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    keras.utils.set_random_seed(0)
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


KERAS = {BatchNorm: folded_batch_norm, GELU: erf_gelu, Softplus: plain_softplus}
ACTIVATIONS = [
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "silu",
    "mish",
    "tanh",
    "sigmoid",
    "softplus",
    "softmax",
    "linear",
]
LAYERS: dict[str, Any] = {name: lambda name=name: [layers.Activation(name)] for name in ACTIVATIONS} | {
    "dense": lambda: [layers.Dense(5)],
    "dense without bias": lambda: [layers.Dense(5, use_bias=False)],
    "dense with a layer": lambda: [layers.Dense(5, activation=layers.ELU(0.5))],
    "batch norm": lambda: [layers.BatchNormalization()],
    "batch norm, no scale": lambda: [layers.BatchNormalization(scale=False, axis=1, epsilon=0.01)],
    "layer norm": lambda: [layers.LayerNormalization()],
    "layer norm, no center": lambda: [layers.LayerNormalization(center=False, epsilon=1e-5)],
    "relu layer": lambda: [layers.ReLU()],
    "relu layer with a slope": lambda: [layers.ReLU(negative_slope=0.125)],
    "leaky relu layer": lambda: [layers.LeakyReLU()],
    "elu layer": lambda: [layers.ELU(alpha=1.5)],
    "softmax layer": lambda: [layers.Softmax()],
    "network": lambda: [
        layers.Flatten(),
        layers.Dense(8, activation="gelu"),
        layers.BatchNormalization(),
        layers.Dropout(0.25),
        keras.Sequential(
            [layers.Dense(6), layers.Activation("tanh"), layers.Identity(), layers.LayerNormalization(epsilon=0.1)]
        ),
        layers.Dense(2),
    ],
}


def numbers(value: Any) -> Any:
    """Return a tensor or a variable of Keras as a NumPy array."""
    return to_numpy(keras.ops.convert_to_tensor(value))


def called(model: Any, X: Any, **kwargs: Any) -> Any:
    """Return what Keras computes from a batch, in the dtype of the batch: NumPy arrays it takes as float32."""
    with np.errstate(all="ignore"):
        return numbers(model(keras.ops.convert_to_tensor(X, dtype=X.dtype.name), **kwargs))


def made(make: Any, dtype: str = "float32", n_in: int = 13) -> Any:
    """Build a model with weights that are all different."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        model = keras.Sequential([layers.Input((n_in,), dtype=dtype), *make()])
    finally:
        keras.config.set_dtype_policy(before)
    values = []
    for weight in model.weights:
        value = numbers(weight)
        if "float" in str(weight.dtype):
            value = value + RNG.uniform(0.05, 0.35, size=value.shape) - (0 if "variance" in weight.path else 0.2)
        values.append(value)
    model.set_weights(values)
    return model


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", LAYERS)
def test_both_predict_the_same(name: str, dtype: str) -> None:
    theirs = made(lambda: [layers.Dense(13), *LAYERS[name]()], dtype)
    model = from_keras(theirs, backend="numpy")
    assert model.dtype == dtype
    X = (3 * RNG.normal(size=(500, 13))).astype(dtype)
    check(called(theirs, X), model, X, dtype, KERAS)
    check(model.predict(X), model, X, dtype)


def test_float64() -> None:
    """Keras multiplies in float32 (its result_type of float64 and float64), so only the weights are compared."""
    theirs = made(LAYERS["network"], "float64")
    model = from_keras(theirs)
    assert model.dtype == "float64"
    W = numbers(theirs.layers[1].kernel)
    assert not np.array_equal(W, W.astype("float32"))
    np.testing.assert_array_equal(model.weights["dense.W"], W)
    X = RNG.normal(size=(50, 13))
    check(model.predict(X), model, X, "float64")


def test_weights_keep_their_bits_on_every_backend(backend: Backend) -> None:
    theirs = made(LAYERS["network"])
    model = from_keras(theirs, backend=backend)
    assert model.backend == backend
    assert [type(layer) for layer in model.layers] == [Dense, BatchNorm, Dropout, Sequential, Dense]
    assert isinstance(model.layers[3].layers[0].activation, Tanh)
    dense, norm, inner = theirs.layers[1], theirs.layers[2], theirs.layers[4]
    expected = {
        "dense.W": dense.kernel,
        "dense.w0": dense.bias,
        "batch_norm.gamma": norm.gamma,
        "batch_norm.beta": norm.beta,
        "batch_norm.running_mean": norm.moving_mean,
        "batch_norm.running_variance": norm.moving_variance,
        "sequential.dense.W": inner.layers[0].kernel,
        "sequential.layer_norm.gamma": inner.layers[3].gamma,
    }
    for name, value in expected.items():
        actual = to_numpy(model.weights[name])
        np.testing.assert_array_equal(actual, np.atleast_2d(numbers(value)), err_msg=name)


def test_settings_have_the_same_meaning() -> None:
    theirs = made(
        lambda: [
            layers.BatchNormalization(),
            layers.LayerNormalization(),
            layers.Dropout(0.3),
            layers.LeakyReLU(),
            layers.Dense(3, activation="leaky_relu"),
            layers.ELU(0.5),
            layers.ReLU(negative_slope=0.5),
            layers.ReLU(),
            layers.Activation("linear"),
            layers.Softmax(),
        ]
    )
    model = from_keras(theirs)
    norm, layer_norm, dropout, leaky, dense, elu, slope, relu, softmax = model.layers
    assert norm.momentum == pytest.approx(0.01)
    assert (norm.epsilon, layer_norm.epsilon) == (1e-3, 1e-3)
    assert dropout.rate == 0.3
    assert leaky.negative_slope == pytest.approx(0.3)
    assert dense.activation.negative_slope == pytest.approx(0.2)
    assert isinstance(elu, ELU)
    assert elu.alpha == 0.5
    assert isinstance(slope, LeakyReLU)
    assert slope.negative_slope == 0.5
    assert isinstance(relu, ReLU)
    assert isinstance(softmax, Softmax)


def test_the_running_mean_moves_alike() -> None:
    theirs = made(lambda: [layers.BatchNormalization(momentum=0.8)])
    model = from_keras(theirs)
    X = RNG.normal(size=(20, 13)).astype("float32")
    called(theirs, X, training=True)
    model.forward_pass(X, training=True)
    mean = numbers(theirs.layers[0].moving_mean)
    np.testing.assert_allclose(model.weights["batch_norm.running_mean"][0], mean, rtol=1e-5, atol=1e-7)


def test_what_is_not_trainable() -> None:
    theirs = made(
        lambda: [
            layers.Dense(3, trainable=False),
            layers.LayerNormalization(center=False, scale=False),
            layers.BatchNormalization(trainable=False),
            layers.LayerNormalization(center=False),
            layers.Dense(3),
        ]
    )
    assert [layer.trainable for layer in from_keras(theirs).layers] == [False, False, False, True, True]
    theirs.trainable = False
    assert not any(layer.trainable for layer in from_keras(theirs).layers)


class Doubled(keras.Sequential):
    def call(self, X: Any, *args: Any, **kwargs: Any) -> Any:
        return 2 * super().call(X, *args, **kwargs)


def functional() -> Any:
    start = layers.Input((3,))
    hidden = layers.LayerNormalization()(layers.Dense(3)(start))
    return keras.Model(start, layers.Dense(2)(hidden))


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: [layers.PReLU()], TypeError, r"layer 'p_?re_?lu.*' \(PReLU\) has no counterpart here: known are"),
        (
            lambda: [layers.Dense(3, activation="hard_silu")],
            ValueError,
            "its activation is hard_silu, and known are relu",
        ),
        (lambda: [layers.Activation(abs)], ValueError, "its activation is abs"),
        (lambda: [layers.Dense(3, activation=layers.ReLU(max_value=6))], ValueError, "no max_value"),
        (lambda: [layers.ReLU(threshold=1.0)], ValueError, "threshold 0"),
        (lambda: [layers.Softmax(axis=0)], ValueError, "along axis 0"),
        (lambda: [layers.BatchNormalization(renorm=True)], ValueError, "renorm=False"),
        (lambda: [layers.Dense(3, dtype="mixed_bfloat16")], ValueError, "computes in bfloat16 with float32"),
        (lambda: [layers.Dense(3), layers.Dense(3, dtype="float64")], ValueError, "float32, float64"),
    ],
)
def test_what_has_no_counterpart_here(make: Any, kind: type[Exception], message: str) -> None:
    theirs = keras.Sequential([layers.Input((3,)), *make()])
    with pytest.raises(kind, match=message):
        from_keras(theirs)


def test_what_is_no_chain_of_layers() -> None:
    for theirs in (functional(), Doubled([layers.Input((3,)), layers.Dense(3)])):
        with pytest.raises(TypeError, match=r"keras\.Sequential\(model\.layers\)"):
            from_keras(theirs)
    theirs = functional()
    X = RNG.normal(size=(4, 3)).astype("float32")
    model = from_keras(keras.Sequential(theirs.layers))
    check(called(theirs, X), model, X, "float32")
    with pytest.raises(ValueError, match=r"model\.build\(\(None, n_features\)\) first"):
        from_keras(keras.Sequential([layers.Dense(3)]))


def test_the_input_shape_comes_across() -> None:
    theirs = made(lambda: [layers.LayerNormalization(center=False, scale=False), layers.Activation("elu")])
    assert from_keras(theirs).input_shape == (13,)
    images = keras.Sequential([layers.Input((2, 3)), layers.Flatten(), layers.Dense(2)])
    assert from_keras(images).input_shape == (6,)
    X = RNG.normal(size=(5, 2, 3)).astype("float32")
    check(called(images, X), from_keras(images), X.reshape(5, 6), "float32")


def test_keras_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = functional()
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(ImportError, match=r'this needs keras, .* pip install "dense-xp\[keras\]"'):
        from_keras(theirs)


def test_what_is_asked_of_weights_comes_across() -> None:
    regularizers, constraints = keras.regularizers, keras.constraints
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(
                3,
                kernel_regularizer=regularizers.L2(0.25),
                bias_regularizer=regularizers.L1L2(0.5, 0.125),
                kernel_constraint=constraints.MinMaxNorm(0.5, 2.0),
                bias_constraint=constraints.NonNeg(),
            ),
            keras.layers.BatchNormalization(gamma_regularizer=regularizers.L1(0.5), beta_constraint="non_neg"),
            keras.layers.LayerNormalization(gamma_constraint=None),
            keras.layers.Dense(2, kernel_constraint=constraints.MaxNorm(3.0), bias_constraint=constraints.UnitNorm()),
        ]
    )
    own = from_keras(model)
    dense, norm, plain, last = own.layers
    assert dense.regularizers == {"W": L2(0.25), "w0": L1L2(0.5, 0.125)}
    assert dense.constraints == {"W": MinMaxNorm(0.5, 2.0), "w0": NonNegative()}
    assert norm.regularizers == {"gamma": L1(0.5)}
    assert norm.constraints == {"beta": NonNegative()}
    assert not plain.regularizers
    assert last.constraints == {"W": MaxNorm(3.0), "w0": UnitNorm()}
    assert float(own.penalty(own.params)) == pytest.approx(
        sum(float(to_numpy(keras.ops.convert_to_tensor(loss))) for loss in model.losses), rel=1e-5
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: {"kernel_regularizer": keras.regularizers.OrthogonalRegularizer()},
            "kernel_regularizer is Orthogonal",
        ),
        (lambda: {"activity_regularizer": "l2"}, "activity_regularizer=None"),
        (lambda: {"kernel_constraint": keras.constraints.MaxNorm(2, axis=1)}, "kernel_constraint is MaxNorm"),
        (lambda: {"kernel_constraint": keras.constraints.MinMaxNorm(rate=0.5)}, "kernel_constraint is MinMaxNorm"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=rf"the Keras layer 'mine' \(Dense\) .*{says}"):
        from_keras(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="mine", **make())]))
    with pytest.raises(ValueError, match="noise_shape"):
        from_keras(keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5, noise_shape=(None, 1))]))
