r"""An ensemble of K networks as one: their layers side by side, each with its own weights.

Activations are arrays of shape (n, K m), with m numbers for each member. The first layers all see the same input, so
they are one :class:`~dense_xp.Dense` of K m units; each later layer is K matrix products at once. The members share no
weights, so each learns as it would alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from dense_xp.backend import Array
from dense_xp.layers.dense import rows_of
from dense_xp.layers.initializers import EachMember, get_initializer, initializer_config
from dense_xp.layers.layer import Layer
from dense_xp.learning.special import log_softmax, sigmoid, softplus
from dense_xp.support.checks import integer
from dense_xp.support.dtypes import in_dtype, total, widened
from dense_xp.support.products import stacked_matmul
from dense_xp.support.seeds import Rng
from dense_xp.support.trees import Params


class DenseEnsemble(Layer):
    r"""K affine maps side by side, :math:`Y_k = X_k W_k + w_{0,k}`, one for each member of an ensemble.

    Input and output hold the numbers of all members side by side. The first layer of an ensemble, where all members
    see the same input, is a :class:`Dense` with the initializer :class:`EachMember`.

    Parameters
    ----------
    n_units : int
        Number of outputs of each member.
    n_members : int
        Number of members, K.
    kernel_initializer : str or callable, default "fan_in_uniform"
        Draws the ``W`` of each member.
    **kwargs
        See :class:`Layer`.

    Raises
    ------
    ValueError
        If a number is not positive, or the number of inputs is not a multiple of K.

    Notes
    -----
    ``W`` has the shape (K n_in, n_units), one matrix below the other; ``w0`` the shape (1, K n_units).

    Examples
    --------
    >>> layer = DenseEnsemble(1, 2, input_shape=(4,), rng=0)
    >>> layer.initialize()
    >>> layer.set_weights({"W": [[1], [1], [10], [10]]})
    >>> layer.forward_pass([[1, 2, 3, 4]])
    array([[ 3., 70.]], dtype=float32)
    """

    def __init__(
        self, n_units: int, n_members: int, *, kernel_initializer: Any = "fan_in_uniform", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.n_units, self.n_members = integer("n_units", n_units), integer("n_members", n_members)
        self.kernel_initializer = get_initializer(kernel_initializer)

    def param_shapes(self) -> dict[str, Any]:
        """Return the shapes of ``W`` and ``w0``."""
        (n_in,) = self.known_input_shape()
        if n_in % self.n_members:
            raise ValueError(f"{self.layer_name()} cannot share out {n_in} inputs to {self.n_members} members")
        return {"W": (n_in, self.n_units), "w0": (1, self.n_members * self.n_units)}

    def init_params(self, rng: Rng) -> Params:
        """Draw the ``W`` of each member, on the host; ``w0`` is zero."""
        shapes = self.param_shapes()
        each = EachMember(self.kernel_initializer, self.n_members)
        W = each((shapes["W"][0] // self.n_members, self.n_members * self.n_units), rng)
        return {"W": np.concatenate(np.split(W, self.n_members, axis=1)), "w0": np.zeros(shapes["w0"])}

    def forward(self, params: Params, X: Array, *, training: bool = False, noise: Any = None) -> tuple[Array, Any]:
        """Return the outputs of all members, and the input; see :meth:`Layer.forward`."""
        xp = array_namespace(X)
        Y = self._joined(xp, stacked_matmul(self._apart(xp, X), self._matrices(xp, params)), X, self.n_units)
        Y += xp.reshape(params["w0"], (-1,))  # Y is ours
        return Y, X

    def backward(self, params: Params, cache: Any, grad_Y: Array) -> tuple[Array, Params]:
        """Return grad_X and the gradients of ``W`` and ``w0``; see :meth:`Layer.backward`."""
        xp = array_namespace(grad_Y)
        transposed = xp.permute_dims(self._matrices(xp, params), (0, 2, 1))
        grad_X = self._joined(
            xp, stacked_matmul(self._apart(xp, grad_Y), transposed), grad_Y, params["W"].shape[0] // self.n_members
        )
        return grad_X, self.parameter_gradients(params, cache, grad_Y)

    def parameter_gradients(self, params: Params, cache: Any, grad_Y: Array) -> Params:
        """Return the gradients of ``W`` and ``w0`` alone."""
        xp = array_namespace(grad_Y)
        grad_W = stacked_matmul(xp.permute_dims(self._apart(xp, cache), (0, 2, 1)), self._apart(xp, grad_Y))
        grad_w0 = in_dtype(total(rows_of(grad_Y), 0, keepdims=True), grad_Y.dtype)
        return {"W": xp.reshape(grad_W, tuple(params["W"].shape)), "w0": grad_w0}

    def _matrices(self, xp: Any, params: Params) -> Array:
        W = params["W"]
        return xp.reshape(W, (self.n_members, W.shape[0] // self.n_members, self.n_units))

    def _apart(self, xp: Any, X: Array) -> Array:
        """Return the rows of each member: (n, K m) as (K, n, m)."""
        each = xp.reshape(X, (-1, self.n_members, X.shape[-1] // self.n_members))
        return xp.permute_dims(each, (1, 0, 2))

    def _joined(self, xp: Any, each: Array, like: Array, n: int) -> Array:
        """Undo :meth:`_apart`, with n numbers for each member and the leading axes of another array."""
        return xp.reshape(xp.permute_dims(each, (1, 0, 2)), (*_lead(like), self.n_members * n))

    def output_shape(self) -> tuple[int, ...]:
        """Return ``(n_members * n_units,)``."""
        return (self.n_members * self.n_units,)

    def get_config(self) -> dict[str, Any]:
        """Return what ``from_config`` needs to make the same layer."""
        return {
            "n_units": self.n_units,
            "n_members": self.n_members,
            "kernel_initializer": initializer_config(self.kernel_initializer),
            **super().get_config(),
        }


class EnsembleMean(Layer):
    r"""The last layer of an ensemble: the members' outputs in training, their mean outside of training.

    In training the output has one more axis, (..., K, n_outputs), for the loss of each member. Outside of training it
    is (..., n_outputs), and ``of`` says what is averaged:

    - ``"outputs"``: the outputs themselves;
    - ``"softmax"``: the probabilities; the output is the logarithm of their mean, so that its softmax is that mean;
    - ``"sigmoid"``: the probability of each output by itself; the output is the logit of their mean.

    Parameters
    ----------
    n_members : int
        Number of members, K.
    of : {"outputs", "softmax", "sigmoid"}, default "outputs"
        What is averaged.
    **kwargs
        See :class:`Layer`.

    Raises
    ------
    ValueError
        If `of` is none of these, or the number of inputs is not a multiple of K.

    Examples
    --------
    >>> layer = EnsembleMean(2, input_shape=(4,))
    >>> layer.initialize()
    >>> layer.forward_pass([[1.0, 2.0, 3.0, 4.0]], training=False)
    array([[2., 3.]], dtype=float32)
    >>> layer.forward_pass([[1.0, 2.0, 3.0, 4.0]]).shape
    (1, 2, 2)
    """

    def __init__(self, n_members: int, of: str = "outputs", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_members = integer("n_members", n_members)
        if of not in ("outputs", "softmax", "sigmoid"):
            raise ValueError(f"of must be 'outputs', 'softmax' or 'sigmoid', and is {of!r}")
        self.of = of

    def output_shape(self) -> tuple[int, ...]:
        """Return ``(n_outputs,)``, those of one member."""
        (n,) = self.known_input_shape()
        if n % self.n_members:
            raise ValueError(f"{self.layer_name()} cannot share out {n} inputs to {self.n_members} members")
        return (n // self.n_members,)

    def forward(self, params: Params, X: Array, *, training: bool = False, noise: Any = None) -> tuple[Array, Any]:
        """Return the members or their mean, and what backward needs; see :meth:`Layer.forward`."""
        xp = array_namespace(X)
        each = xp.reshape(X, (*_lead(X), self.n_members, X.shape[-1] // self.n_members))
        if training:
            return each, None
        wide = widened(each)
        if self.of == "outputs":
            return in_dtype(xp.mean(wide, axis=-2), X.dtype), (None, None)
        if self.of == "softmax":
            log_p, p = log_softmax(wide)
            mean, share = _log_mean_exp(log_p)
            return in_dtype(mean, X.dtype), (p, share)
        yes, share_yes = _log_mean_exp(-softplus(-wide))
        no, share_no = _log_mean_exp(-softplus(wide))
        p = sigmoid(wide)
        return in_dtype(yes - no, X.dtype), (None, share_yes * (1.0 - p) + share_no * p)

    def backward(self, params: Params, cache: Any, grad_Y: Array) -> tuple[Array, Params]:
        """Return grad_X, and no gradients; see :meth:`Layer.backward`."""
        xp = array_namespace(grad_Y)
        if cache is not None:
            p, share = cache
            grad = xp.expand_dims(widened(grad_Y), axis=-2)
            if share is None:
                shape = (*grad_Y.shape[:-1], self.n_members, grad_Y.shape[-1])
                grad = xp.broadcast_to(grad * (1.0 / self.n_members), shape)
            else:
                grad = grad * share
            if p is not None:
                grad = grad - p * xp.sum(grad, axis=-1, keepdims=True)
            grad_Y = in_dtype(grad, grad_Y.dtype)
        return xp.reshape(grad_Y, (*grad_Y.shape[:-2], math.prod(grad_Y.shape[-2:]))), {}

    def get_config(self) -> dict[str, Any]:
        """Return what ``from_config`` needs to make the same layer."""
        return {"n_members": self.n_members, "of": self.of, **super().get_config()}


def _lead(X: Array) -> tuple[int, ...]:
    """Return the leading axes for a reshape; -1 for a matrix, whose number of rows may be unknown while tracing."""
    return (-1,) if X.ndim == 2 else tuple(X.shape[:-1])


def _log_mean_exp(x: Array) -> tuple[Array, Array]:
    """Return log mean exp over the members, the last axis but one, and its derivative."""
    xp = array_namespace(x)
    largest = xp.max(x, axis=-2, keepdims=True)
    powers = xp.exp(x - largest)
    sums = xp.sum(powers, axis=-2, keepdims=True)
    return (largest + xp.log(sums * (1.0 / x.shape[-2])))[..., 0, :], powers / sums
