"""The fully connected layer: an affine map, its three gradients, and the initial values of its two arrays.

    Y      = X W + w0
    grad_X = grad_Y Wᵀ      grad_W = Xᵀ grad_Y      grad_w0 = sum of grad_Y over the batch

An activation may follow; it is a layer of its own, applied to the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from dense_xp.backend import Array
from dense_xp.layers.activations import activation_config, get_activation
from dense_xp.layers.initializers import get_initializer, initializer_config
from dense_xp.layers.layer import Layer
from dense_xp.support.checks import integer
from dense_xp.support.dtypes import in_dtype, total
from dense_xp.support.products import matmul
from dense_xp.support.seeds import Rng
from dense_xp.support.trees import Params


def _weight(name: str, says: str) -> Any:
    """Return a property that reads one of the layer's arrays, and replaces it."""

    def read(layer: Dense) -> Array:
        return layer.params.get(name)

    def replace(layer: Dense, value: Any) -> None:
        layer.set_weights({name: value})

    return property(read, replace, doc=says)


class Dense(Layer):
    r"""Fully connected layer, :math:`Y = X W + w_0`, followed by an activation if one is given.

    Parameters
    ----------
    n_units : int
        Number of outputs.
    input_shape : tuple of int, optional
        ``(n_in,)``. Without it, it comes from the previous layer or from the first batch.
    activation : str or Layer, optional
        Applied to the output: ``"relu"``, ``"gelu"``, ``LeakyReLU(0.1)`` or another.
    use_bias : bool, default True
        Whether there is a ``w0``.
    kernel_initializer : str or callable, default "fan_in_uniform"
        Draws ``W``: a name, or ``f(shape, rng)`` that returns an array. The default draws uniformly from ±1/√n_in.
    bias_initializer : str or callable, default "zeros"
        Draws ``w0``.
    name, dtype, backend, rng
        See :class:`Layer`.

    Attributes
    ----------
    W : array, shape (n_in, n_units), or None
        The weights; None until the layer is initialized. Assignable.
    w0 : array, shape (1, n_units), or None
        The biases; None also if `use_bias` is False. Assignable.
    layer_input : array or None
        The batch of the last ``forward_pass``.
    W_opt, w0_opt : Optimizer or object or None
        The optimizers of ``W`` and ``w0``, each with its own state.

    Raises
    ------
    ValueError
        If an argument is out of range or a name is unknown.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio and A. Courville, *Deep Learning*, MIT Press 2016, sec. 6.5
       (the gradients of the affine map).

    Examples
    --------
    >>> import numpy as np
    >>> from dense_xp import SGD, Dense
    >>> np.random.seed(42)
    >>> layer = Dense(n_units=3, input_shape=(2,))
    >>> layer.initialize(SGD(learning_rate=0.01))
    >>> layer.forward_pass([[1, 2]])
    array([[ 0.10162..., -0.33551..., -0.64490...]], dtype=float32)
    >>> layer.backward_pass([[0.1, 0.2, 0.3]])
    array([[ 0.20816..., -0.22928...]], dtype=float32)
    >>> layer.parameters()
    9
    """

    def __init__(
        self,
        n_units: int,
        input_shape: tuple[int, ...] | None = None,
        *,
        activation: str | Layer | None = None,
        use_bias: bool = True,
        kernel_initializer: str | dict[str, Any] | Callable[..., Any] = "fan_in_uniform",
        bias_initializer: str | dict[str, Any] | Callable[..., Any] = "zeros",
        name: str | None = None,
        dtype: str | None = None,
        backend: Any = None,
        rng: Any = None,
    ) -> None:
        super().__init__(input_shape=input_shape, name=name, dtype=dtype, backend=backend, rng=rng)
        self.n_units = integer("n_units", n_units)
        self.activation = get_activation(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = get_initializer(kernel_initializer)
        self.bias_initializer = get_initializer(bias_initializer)

    # ------------------------------------------------------------------ the mathematics

    def param_shapes(self) -> dict[str, tuple[int, int]]:
        """Return the shapes of ``W`` and ``w0``."""
        (n_in,) = self.known_input_shape()
        shapes = {"W": (n_in, self.n_units), "w0": (1, self.n_units)}
        return shapes if self.use_bias else {"W": shapes["W"]}

    def init_params(self, rng: Rng) -> Params:
        """Draw ``W`` of shape (n_in, n_units) and ``w0`` of shape (1, n_units), on the host."""
        initializers = {"W": self.kernel_initializer, "w0": self.bias_initializer}
        return {name: _drawn(initializers[name], shape, rng) for name, shape in self.param_shapes().items()}

    def forward(self, params: Params, X: Array, *, training: bool = False, noise: Any = None) -> tuple[Array, Any]:
        """Return the output and what backward needs; see :meth:`Layer.forward`."""
        rows = X if X.ndim == 2 else rows_of(X)
        Z = matmul(rows, params["W"])
        if "w0" in params:
            Z += params["w0"]  # Z is ours: on a CPU a second array of its size would cost more than the addition
        if rows is not X:
            Z = array_namespace(X).reshape(Z, (*X.shape[:-1], self.n_units))
        if self.activation is None:
            return Z, (X, None)
        Y, hidden = self.activation.forward({}, Z, training=training)
        return Y, (X, hidden)

    def backward(self, params: Params, cache: Any, grad_Y: Array) -> tuple[Array, Params]:
        """Return grad_X and the gradients of ``W`` and ``w0``; see :meth:`Layer.backward`."""
        X, hidden = cache
        grad_Z = self.through_activation(hidden, grad_Y)
        return product(grad_Z, params["W"].T), self._parameter_gradients(X, grad_Z)

    def parameter_gradients(self, params: Params, cache: Any, grad_Y: Array) -> Params:
        """Return the gradients of ``W`` and ``w0`` without the product for grad_X."""
        X, hidden = cache
        return self._parameter_gradients(X, self.through_activation(hidden, grad_Y))

    def through_activation(self, hidden: Any, grad_Y: Array) -> Array:
        """Return the gradient with respect to the activation's input.

        Parameters
        ----------
        hidden : object
            The cache of the activation.
        grad_Y : array
            Gradient with respect to the output.
        """
        return grad_Y if self.activation is None else self.activation.backward({}, hidden, grad_Y)[0]

    def _parameter_gradients(self, X: Array, grad_Z: Array) -> Params:
        X, grad_Z = rows_of(X), rows_of(grad_Z)
        grads = {"W": matmul(X.T, grad_Z)}
        if self.use_bias:
            grads["w0"] = in_dtype(total(grad_Z, 0, keepdims=True), grad_Z.dtype)
        return grads

    def output_shape(self) -> tuple[int, ...]:
        """Return ``(n_units,)``."""
        return (self.n_units,)

    # ------------------------------------------------------------------ the attributes

    W = _weight("W", "The weights, of shape (n_in, n_units); None until the layer is initialized.")
    w0 = _weight("w0", "The biases, of shape (1, n_units); None until the layer is initialized, or without bias.")

    @property
    def layer_input(self) -> Array:
        """The batch of the last :meth:`Layer.forward_pass` in the layer's dtype; None before that."""
        return None if self._remembered is None else self._remembered[1][0]

    @property
    def W_opt(self) -> Any:
        """The optimizer of ``W``; see :meth:`Layer.optimizer_of`."""
        return self.optimizer_of("W")

    @property
    def w0_opt(self) -> Any:
        """The optimizer of ``w0``; see :meth:`Layer.optimizer_of`."""
        return self.optimizer_of("w0")

    def get_config(self) -> dict[str, Any]:
        """Return what ``from_config`` needs to make the same layer."""
        return {
            "n_units": self.n_units,
            "activation": activation_config(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": initializer_config(self.kernel_initializer),
            "bias_initializer": initializer_config(self.bias_initializer),
            **super().get_config(),
        }


def rows_of(X: Array) -> Array:
    """Fold all leading axes into one, so that every product is one matrix product."""
    return X if X.ndim == 2 else array_namespace(X).reshape(X, (math.prod(X.shape[:-1]), X.shape[-1]))


def product(X: Array, W: Array) -> Array:
    """Multiply the last axis of X with a matrix."""
    Z = matmul(rows_of(X), W)
    return Z if X.ndim == 2 else array_namespace(X).reshape(Z, (*X.shape[:-1], W.shape[1]))


def _drawn(initializer: Callable[..., Any], shape: tuple[int, int], rng: Rng) -> np.ndarray[Any, Any]:
    values = np.asarray(initializer(shape, rng))
    if values.shape != shape or values.dtype.kind not in "biuf":
        raise ValueError(
            f"the initializer {initializer!r} returned {values.dtype} of shape {values.shape}, "
            f"and real numbers of shape {shape} are needed"
        )
    return values
