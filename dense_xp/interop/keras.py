"""Models from Keras 3, on any of its backends: the same bits in the weights, or an error that names the layer.

What differs: Keras' momentum is the weight of the *old* average, 0.99 where it is 0.01 here; its epsilon is 1e-3
unless it says otherwise; its function leaky_relu has the slope 0.2, and its layer LeakyReLU 0.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dense_xp.backend import to_numpy
from dense_xp.interop.building import Part, assembled, finished, imported
from dense_xp.layers.activations import ELU, GELU, SELU, LeakyReLU, Mish, ReLU, Sigmoid, SiLU, Softmax, Softplus, Tanh
from dense_xp.layers.dense import Dense
from dense_xp.layers.dropout import Dropout
from dense_xp.layers.layer import Layer
from dense_xp.layers.normalization import BatchNorm, LayerNorm
from dense_xp.learning.constraints import MaxNorm, MinMaxNorm, NonNegative, UnitNorm
from dense_xp.learning.regularizers import L1, L1L2, L2
from dense_xp.support.trees import Params
from dense_xp.training.sequential import Sequential


def from_keras(model: Any, *, backend: Any = None) -> Sequential:
    """Make a model of a ``keras.Sequential``.

    Supported are Sequential (also nested), Dense, BatchNormalization and LayerNormalization over the
    last axis, Dropout, Activation, ReLU, LeakyReLU, ELU, Softmax; as activations by name relu, leaky_relu, elu,
    gelu (the exact one), selu, silu (swish), mish, tanh, sigmoid, softplus, softmax, linear. Identity and Flatten
    are left out, as rows are flat. An activation right behind a Dense that has none becomes its own. What is not
    trainable in Keras is not trainable here; a normalization without scale or center gets 1 or 0 in its place. The
    regularizers L1, L2 and L1L2 of weights are converted, and the constraints MaxNorm, MinMaxNorm, UnitNorm and NonNeg.

    Parameters
    ----------
    model : keras.Sequential
        Built: it has seen a batch, or knows its input shape.
    backend : str or module or Backend, optional
        Where the new model lives; by default the setting in force.

    Returns
    -------
    Sequential
        Initialized and without an optimizer, in the dtype of the Keras model.

    Raises
    ------
    ImportError
        If Keras is not installed.
    TypeError, ValueError
        If there is something without a counterpart here, or the model is not built.
    """
    keras = imported("keras", "keras")
    if not _is_chain(keras, model):
        raise TypeError(
            f"from_keras takes a keras.Sequential, and this is a {type(model).__name__}; "
            "where its layers are one chain, pass keras.Sequential(model.layers)"
        )
    parts = _parts(keras, model)
    dtypes = sorted({weight.dtype for weight in model.weights if "float" in weight.dtype}) or ["float32"]
    if len(dtypes) > 1:
        raise ValueError(f"the Keras model has several dtypes, {', '.join(dtypes)}, and a model here has one")
    shape = getattr(model, "input_shape", ())  # an image has more axes, and a Flatten before anything else
    return finished(parts, input_shape=shape[1:] if len(shape) == 2 else None, dtype=dtypes[0], backend=backend)


def _is_chain(keras: Any, layer: Any) -> bool:
    return isinstance(layer, keras.Sequential) and type(layer).call is keras.Sequential.call


def _parts(keras: Any, model: Any) -> list[Part]:
    parts: list[Part] = []
    for layer in model.layers:
        if _is_chain(keras, layer):
            parts.append(assembled(_parts(keras, layer)))
        elif type(layer) not in (keras.layers.Identity, keras.layers.Flatten):
            parts += _part(keras, layer)
    return parts


def _part(keras: Any, layer: Any) -> list[Part]:
    kind = type(layer).__name__
    if kind not in _READERS or type(layer) is not getattr(keras.layers, kind):
        known = ", ".join(["Sequential", *_READERS, "Identity", "Flatten"])
        raise _refusal(layer, f"known are {known}; leave it out, or write it as a Layer", TypeError)
    if not layer.built:
        raise ValueError(f"the Keras layer {layer.name!r} is not built: model.build((None, n_features)) first")
    if layer.compute_dtype != layer.variable_dtype:
        raise _refusal(
            layer, f"it computes in {layer.compute_dtype} with {layer.variable_dtype}: set one dtype for both"
        )
    if getattr(layer, "activity_regularizer", None) is not None:
        raise _refusal(layer, "outputs are not regularized here: activity_regularizer=None")
    own = _READERS[kind](keras, layer)
    if own is None:
        return []
    if type(own) not in _WITH_WEIGHTS:
        return [(own, {})]
    own.regularized(**_rules(keras, layer, "regularizer", _regularizer))
    own.constrained(**_rules(keras, layer, "constraint", _constraint))
    own.trainable = bool(layer.trainable_weights)
    return [(own, _params(keras, layer))]


def _rules(keras: Any, layer: Any, kind: str, read: Callable[[Any, Any], Any]) -> dict[str, Any]:
    """Return the regularizers, or the constraints, of the weights of a layer by the names of the weights here."""
    rules = {}
    for theirs, ours in _NAMES.items():
        rule = getattr(layer, f"{theirs}_{kind}", None)
        if rule is not None and getattr(layer, theirs, None) is not None:
            rules[ours] = read(keras, rule)
            if rules[ours] is None:
                raise _refusal(
                    layer, f"its {theirs}_{kind} is {type(rule).__name__} {rule.get_config()}: set it to None"
                )
    return rules


def _regularizer(keras: Any, rule: Any) -> Any:
    kinds = keras.regularizers
    if type(rule) is kinds.L1:
        return L1(float(rule.l1))
    if type(rule) is kinds.L2:
        return L2(float(rule.l2))
    return L1L2(float(rule.l1), float(rule.l2)) if type(rule) is kinds.L1L2 else None


def _constraint(keras: Any, rule: Any) -> Any:
    kinds = keras.constraints
    if type(rule) is kinds.NonNeg:
        return NonNegative()
    if getattr(rule, "axis", 0) not in (0, [0]):  # norms are those of columns here
        return None
    if type(rule) is kinds.UnitNorm:
        return UnitNorm()
    if type(rule) is kinds.MaxNorm:
        return MaxNorm(float(rule.max_value))
    if type(rule) is kinds.MinMaxNorm and rule.rate == 1.0:
        return MinMaxNorm(float(rule.min_value), float(rule.max_value))
    return None


def _params(keras: Any, layer: Any) -> Params:
    params: Params = {}
    for theirs, ours in _NAMES.items():
        value = getattr(layer, theirs, None)
        if value is not None:
            host = to_numpy(keras.ops.convert_to_tensor(value))
            host = host.astype("float32") if layer.variable_dtype == "bfloat16" else host
            params[ours] = host if host.ndim == 2 else host.reshape(1, -1)
    return params


_NAMES = {
    "kernel": "W",
    "bias": "w0",
    "gamma": "gamma",
    "beta": "beta",
    "moving_mean": "running_mean",
    "moving_variance": "running_variance",
}
_WITH_WEIGHTS = (Dense, LayerNorm, BatchNorm)


def _dense(keras: Any, layer: Any) -> Layer:
    if getattr(layer, "quantization_mode", None) is not None:
        raise _refusal(layer, f"its weights are quantized ({layer.quantization_mode}), and here they are not")
    activation = _activation(keras, layer, layer.activation)
    return Dense(layer.units, layer.kernel.shape[:1], activation=activation, use_bias=layer.use_bias)


def _activation(keras: Any, layer: Any, function: Any) -> Layer | None:
    if isinstance(function, keras.layers.Layer):  # a layer serves as an activation
        return next((own for own, _ in _part(keras, function)), None)
    for name, make in _FUNCTIONS.items():
        if function is getattr(keras.activations, name):
            return make()
    name = getattr(function, "__name__", repr(function))
    raise _refusal(layer, f"its activation is {name}, and known are {', '.join(_FUNCTIONS)}")


def _relu(keras: Any, layer: Any) -> Layer:
    if layer.max_value is not None or layer.threshold:
        raise _refusal(layer, "relu is max(x, 0) here: no max_value, and threshold 0")
    return LeakyReLU(float(layer.negative_slope)) if layer.negative_slope else ReLU()


def _softmax(keras: Any, layer: Any) -> Layer:
    _check_axis(layer)
    return Softmax()


def _batch_norm(keras: Any, layer: Any) -> Layer:
    _check_axis(layer)
    if getattr(layer, "renorm", False):
        raise _refusal(layer, "there is no renormalization here: renorm=False")
    return BatchNorm(momentum=1.0 - layer.momentum, epsilon=layer.epsilon, input_shape=tuple(layer.moving_mean.shape))


def _layer_norm(keras: Any, layer: Any) -> Layer:
    _check_axis(layer)
    if getattr(layer, "rms_scaling", False):
        raise _refusal(layer, "the mean is subtracted here: rms_scaling=False")
    return LayerNorm(epsilon=layer.epsilon)


def _dropout(keras: Any, layer: Any) -> Layer:
    if layer.noise_shape is not None:
        raise _refusal(
            layer, f"every number is dropped by itself here: noise_shape=None, and it is {layer.noise_shape}"
        )
    return Dropout(float(layer.rate))


def _check_axis(layer: Any) -> None:
    if layer.axis not in (-1, 1, [-1], [1]):
        raise _refusal(layer, f"it is along axis {layer.axis}, and here it is the last one")


_READERS: dict[str, Callable[[Any, Any], Layer | None]] = {
    "Dense": _dense,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Dropout": _dropout,
    "Activation": lambda keras, layer: _activation(keras, layer, layer.activation),
    "ReLU": _relu,
    "LeakyReLU": lambda keras, layer: LeakyReLU(float(layer.negative_slope)),
    "ELU": lambda keras, layer: ELU(float(layer.alpha)),
    "Softmax": _softmax,
}
_FUNCTIONS: dict[str, Callable[[], Layer | None]] = {
    "relu": ReLU,
    "leaky_relu": lambda: LeakyReLU(0.2),
    "elu": ELU,
    "gelu": GELU,
    "silu": SiLU,
    "selu": SELU,
    "mish": Mish,
    "tanh": Tanh,
    "sigmoid": Sigmoid,
    "softplus": Softplus,
    "softmax": Softmax,
    "linear": lambda: None,
}


def _refusal(layer: Any, why: str, kind: type[Exception] = ValueError) -> Exception:
    return kind(f"the Keras layer {layer.name!r} ({type(layer).__name__}) has no counterpart here: {why}")
