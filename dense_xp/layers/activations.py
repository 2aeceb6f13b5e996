"""Activations: functions of each number, each with its own derivative, as layers without parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from array_api_compat import array_namespace

from dense_xp.backend import Array
from dense_xp.layers.configured import layer_of
from dense_xp.layers.contract import Contract
from dense_xp.layers.layer import Layer
from dense_xp.learning.special import log_softmax, normal_cdf, sigmoid, softplus
from dense_xp.support.checks import real
from dense_xp.support.dtypes import in_dtype, widened
from dense_xp.support.registry import Registry, by_name
from dense_xp.support.trees import Params


class Activation(Layer):
    """Base class: a function of each number; a subclass writes the function and its derivative."""

    def function(self, X: Array) -> tuple[Array, Any]:
        """Return the value, and what :meth:`derivative` needs."""
        raise NotImplementedError(f"{type(self).__name__} has no function")

    def derivative(self, cache: Any) -> Array:
        """Return the derivative at each entry of X."""
        raise NotImplementedError(f"{type(self).__name__} has no derivative")

    def forward(self, params: Params, X: Array, *, training: bool = False, noise: Any = None) -> tuple[Array, Any]:
        """Return the value and what backward needs; see :meth:`Layer.forward`."""
        return self.function(X)

    def backward(self, params: Params, cache: Any, grad_Y: Array) -> tuple[Array, Params]:
        """Return grad_X, the gradient times the derivative; see :meth:`Layer.backward`."""
        return grad_Y * self.derivative(cache), {}


class ReLU(Activation):
    r"""Rectified linear unit, :math:`\max(x, 0)`; its derivative at 0 is taken as 0.

    References
    ----------
    .. [1] V. Nair and G. Hinton, "Rectified linear units improve restricted Boltzmann machines", ICML 2010.

    Examples
    --------
    >>> ReLU(input_shape=(3,)).forward_pass([[-1.0, 0.0, 2.0]])
    array([[0., 0., 2.]], dtype=float32)
    """

    def function(self, X: Array) -> tuple[Array, Any]:
        """Return the value, also as the cache: the derivative needs its sign."""
        Y = array_namespace(X).maximum(X, 0.0)
        return Y, Y

    def derivative(self, cache: Any) -> Array:
        """Return 1 where the value is positive."""
        return array_namespace(cache).astype(cache > 0, cache.dtype)


class LeakyReLU(Activation):
    r"""Leaky rectified linear unit, :math:`x` where positive and :math:`αx` elsewhere.

    Parameters
    ----------
    negative_slope : float, default 0.01
        The slope :math:`α` where x is not positive.
    **kwargs
        See :class:`Layer`.

    References
    ----------
    .. [1] A. Maas, A. Hannun and A. Ng, "Rectifier nonlinearities improve neural network acoustic models",
       ICML 2013.

    Examples
    --------
    >>> LeakyReLU(0.5, input_shape=(2,)).forward_pass([[-1.0, 2.0]])
    array([[-0.5,  2. ]], dtype=float32)
    """

    def __init__(self, negative_slope: float = 0.01, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.negative_slope = real("negative_slope", negative_slope)

    def function(self, X: Array) -> tuple[Array, Any]:
        """Return the value, and X."""
        return array_namespace(X).where(X > 0, X, self.negative_slope * X), X

    def derivative(self, cache: Any) -> Array:
        """Return 1 or the slope."""
        xp = array_namespace(cache)
        return xp.where(cache > 0, xp.ones_like(cache), self.negative_slope)

    def get_config(self) -> dict[str, Any]:
        """Return what ``from_config`` needs to make the same layer."""
        return {"negative_slope": self.negative_slope, **super().get_config()}


class ELU(Activation):
    r"""Exponential linear unit, :math:`x` where positive and :math:`α(e^x - 1)` elsewhere.

    Parameters
    ----------
    alpha : float, default 1.0
        The function tends to :math:`-α` for :math:`x → -∞`.
    **kwargs
        See :class:`Layer`.

    References
    ----------
    .. [1] D.-A. Clevert, T. Unterthiner and S. Hochreiter, "Fast and accurate deep network learning by
       exponential linear units", ICLR 2016, https://arxiv.org/abs/1511.07289

    Examples
    --------
    >>> ELU(input_shape=(2,)).forward_pass([[-100.0, 2.0]])
    array([[-1.,  2.]], dtype=float32)
    """

    def __init__(self, alpha: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = real("alpha", alpha)

    def function(self, X: Array) -> tuple[Array, Any]:
        """Return the value, and X."""
        xp = array_namespace(X)
        return xp.where(X > 0, X, self.alpha * xp.expm1(xp.minimum(X, 0.0))), X

    def derivative(self, cache: Any) -> Array:
        """Return 1 or α eˣ."""
        xp = array_namespace(cache)
        return xp.where(cache > 0, xp.ones_like(cache), self.alpha * xp.exp(xp.minimum(cache, 0.0)))

    def get_config(self) -> dict[str, Any]:
        """Return what ``from_config`` needs to make the same layer."""
        return {"alpha": self.alpha, **super().get_config()}


class SELU(Activation):
    r"""Scaled exponential linear unit, :math:`λ x` where positive and :math:`λ α (e^x - 1)` elsewhere.

    With λ = 1.0507… and α = 1.6732… mean 0 and variance 1 are kept from layer to layer, if the weights are drawn with
    variance 1 / n_in.

    References
    ----------
    .. [1] G. Klambauer, T. Unterthiner, A. Mayr and S. Hochreiter, "Self-normalizing neural networks", NeurIPS 2017,
       https://arxiv.org/abs/1706.02515

    Examples
    --------
    >>> SELU(input_shape=(2,)).forward_pass([[-100.0, 2.0]]).round(4)
    array([[-1.7581,  2.1014]], dtype=float32)
    """

    scale, alpha = 1.0507009873554805, 1.6732632423543772

    def function(self, X: Array) -> tuple[Array, Any]:
        """Return the value, and X."""
        xp = array_namespace(X)
        return xp.where(X > 0, self.scale * X, self.scale * self.alpha * xp.expm1(xp.minimum(X, 0.0))), X

    def derivative(self, cache: Any) -> Array:
        """Return λ or λ α eˣ."""
        xp = array_namespace(cache)
        left = self.scale * self.alpha * xp.exp(xp.minimum(cache, 0.0))
        return xp.where(cache > 0, self.scale * xp.ones_like(cache), left)


class GELU(Activation):
    r"""Gaussian error linear unit, :math:`x\,Φ(x)`, exact to rounding (not the tanh approximation).

    References
    ----------
    .. [1] D. Hendrycks and K. Gimpel, "Gaussian error linear units", 2016, https://arxiv.org/abs/1606.08415

    Examples
    --------
    >>> GELU(input_shape=(2,)).forward_pass([[0.0, 1.0]]).round(5)
    array([[0.     , 0.84134]], dtype=float32)
    """

    def function(self, X: Array) -> tuple[Array, Any]:
        """Return x Φ(x) and the derivative, which shares the costly Φ."""
        cdf, density = normal_cdf(wide := widened(X))
        return X * in_dtype(cdf, X.dtype), in_dtype(cdf + wide * density, X.dtype)

    def derivative(self, cache: Any) -> Array:
        """Return Φ(x) + x φ(x)."""
        return cache


class SiLU(Activation):
    r"""Sigmoid linear unit, :math:`x\,σ(x)`, also called swish.

    References
    ----------
    .. [1] S. Elfwing, E. Uchibe and K. Doya, "Sigmoid-weighted linear units for neural network function
       approximation in reinforcement learning", Neural Networks 107 (2018),
       https://arxiv.org/abs/1702.03118

    Examples
    --------
    >>> SiLU(input_shape=(2,)).forward_pass([[0.0, 100.0]])
    array([[  0., 100.]], dtype=float32)
    """

    def function(self, X: Array) -> tuple[Array, Any]:
        """Return x σ(x), and the pair x and σ(x)."""
        s = sigmoid(X)
        return X * s, (X, s)

    def derivative(self, cache: Any) -> Array:
        """Return σ(x) (1 + x σ(-x))."""
        X, s = cache
        return s * (1.0 + X * sigmoid(-X))


class Mish(Activation):
    r"""Mish, :math:`x \tanh(\log(1 + e^x))`.

    References
    ----------
    .. [1] D. Misra, "Mish: a self regularized non-monotonic activation function", BMVC 2020,
       https://arxiv.org/abs/1908.08681

    Examples
    --------
    >>> Mish(input_shape=(2,)).forward_pass([[1.0, 100.0]]).round(4)
    array([[  0.8651, 100.    ]], dtype=float32)
    """

    def function(self, X: Array) -> tuple[Array, Any]:
        """Return x t with t = tanh(softplus(x)); and x, t and 1 - t, from e⁻ˡˣˡ and without cancellation."""
        xp = array_namespace(X)
        small = xp.exp(-xp.abs(X))
        above = xp.where(X < 0, small * (small + 2.0), 1.0 + 2.0 * small)
        rest = xp.where(X < 0, 2.0 * xp.ones_like(X), 2.0 * small * small)
        t = above / (above + rest)
        return X * t, (X, t, rest / (above + rest))

    def derivative(self, cache: Any) -> Array:
        """Return t + x σ(x) (1 - t²)."""
        X, t, rest = cache
        return t + X * sigmoid(X) * (rest * (1.0 + t))


class Tanh(Activation):
    r"""Hyperbolic tangent.

    Examples
    --------
    >>> Tanh(input_shape=(2,)).forward_pass([[0.0, 100.0]])
    array([[0., 1.]], dtype=float32)
    """

    def function(self, X: Array) -> tuple[Array, Any]:
        """Return tanh(x), also as the cache."""
        Y = array_namespace(X).tanh(X)
        return Y, Y

    def derivative(self, cache: Any) -> Array:
        """Return 1 - y² as a product, which keeps its digits where y is close to ±1."""
        return (1.0 - cache) * (1.0 + cache)


class Sigmoid(Activation):
    r"""Logistic sigmoid, :math:`1/(1 + e^{-x})`.

    Examples
    --------
    >>> Sigmoid(input_shape=(2,)).forward_pass([[0.0, 100.0]])
    array([[0.5, 1. ]], dtype=float32)
    """

    def function(self, X: Array) -> tuple[Array, Any]:
        """Return σ(x), also as the cache."""
        Y = sigmoid(X)
        return Y, Y

    def derivative(self, cache: Any) -> Array:
        """Return y (1 - y)."""
        return cache * (1.0 - cache)


class Softplus(Activation):
    r"""Softplus, :math:`\log(1 + e^x)`.

    Examples
    --------
    >>> Softplus(input_shape=(2,)).forward_pass([[0.0, 100.0]])
    array([[  0.6931472, 100.       ]], dtype=float32)
    """

    def function(self, X: Array) -> tuple[Array, Any]:
        """Return the value, and X."""
        return softplus(X), X

    def derivative(self, cache: Any) -> Array:
        """Return σ(x)."""
        return sigmoid(cache)


class Softmax(Layer):
    r"""Softmax along the last axis, :math:`y_i = e^{x_i} / \sum_j e^{x_j}`.

    Its derivative is the full matrix :math:`∂y_i/∂x_j = y_i (δ_{ij} - y_j)`. To train a classifier, leave it
    out and use :class:`SoftmaxCrossEntropy`, which combines softmax and logarithm without loss of digits.

    References
    ----------
    .. [1] J. Bridle, "Probabilistic interpretation of feedforward classification network outputs", in
       *Neurocomputing*, Springer 1990, pp. 227–236.

    Examples
    --------
    >>> Softmax(input_shape=(2,)).forward_pass([[3.0, 3.0]])
    array([[0.5, 0.5]], dtype=float32)
    """

    def forward(self, params: Params, X: Array, *, training: bool = False, noise: Any = None) -> tuple[Array, Any]:
        """Return the probabilities, also as the cache; see :meth:`Layer.forward`."""
        Y = log_softmax(X)[1]
        return Y, Y

    def backward(self, params: Params, cache: Any, grad_Y: Array) -> tuple[Array, Params]:
        """Return y (g - Σ y g); see :meth:`Layer.backward`."""
        xp = array_namespace(grad_Y)
        return cache * (grad_Y - xp.sum(cache * grad_Y, axis=-1, keepdims=True)), {}


ACTIVATIONS: Registry[Layer] = Registry(
    "activation",
    {
        "relu": ReLU,
        "leaky_relu": LeakyReLU,
        "elu": ELU,
        "selu": SELU,
        "gelu": GELU,
        "silu": SiLU,
        "mish": Mish,
        "tanh": Tanh,
        "sigmoid": Sigmoid,
        "softplus": Softplus,
        "softmax": Softmax,
    },
    "a layer without parameters",
    lambda spec: isinstance(spec, Layer),
)


def get_activation(spec: str | Mapping[str, Any] | Layer | None) -> Layer | None:
    """Return an activation from its name, from what :func:`activation_config` wrote, or as it is.

    ``None`` and ``"linear"`` mean no activation.

    Raises
    ------
    ValueError
        If the name is unknown, or the layer has parameters or noise of its own.
    TypeError
        If it is neither a name nor a layer.

    Examples
    --------
    >>> get_activation("leaky_relu")
    LeakyReLU()
    """
    if spec is None or spec == "linear":
        return None
    if isinstance(spec, Mapping):
        spec = layer_of(spec)
    if isinstance(spec, str):
        spec = by_name("activation", ACTIVATIONS, spec, ", linear, or a layer without parameters")()
    activation = ACTIVATIONS.made(spec)
    kind = type(activation)
    if (
        kind.forward is Contract.forward
        or kind.init_params is not Contract.init_params
        or kind.draw_noise is not Contract.draw_noise
    ):
        raise ValueError(
            f"{kind.__name__} cannot be an activation, which is a pure function without parameters or noise: "
            "put it after this layer in a Sequential"
        )
    return activation


def activation_config(activation: Layer | None) -> Any:
    """Return an activation as plain values: its name, or its class and configuration.

    Examples
    --------
    >>> activation_config(ReLU()), activation_config(ELU(2.0))["config"]["alpha"]
    ('relu', 2.0)
    """
    if activation is None:
        return None
    config = activation.get_config()
    for name, known in ACTIVATIONS.items():
        if type(activation) is known and config == known().get_config():
            return name
    return {"class": type(activation).__name__, "config": config}
