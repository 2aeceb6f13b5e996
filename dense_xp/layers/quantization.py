r"""Weights of eight bits, for inference: a quarter of the memory and of the file size.

Each column of W is scaled so that its largest absolute value becomes 127, and rounded to integers:

    s_j = max_i |W_ij| / 127      Q = round(W / s)      Y = act((X Q) s + w0)

The error of a weight is at most half of its column's s; that of an output, besides rounding, is at most

    |ΔZ_j| ≤ ½ s_j Σ_i |x_i|

No library multiplies floating-point numbers with such integers portably, so Q is converted to floating point, a block
of columns at a time. This saves memory; it saves time only where predictions have a compiled kernel, see
:mod:`dense_xp.training.predictor`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from dense_xp.backend import Array, to_numpy
from dense_xp.layers.activations import activation_config, get_activation
from dense_xp.layers.dense import Dense, rows_of
from dense_xp.layers.layer import Layer
from dense_xp.layers.surgery import in_place_of, replaced
from dense_xp.support.checks import integer
from dense_xp.support.dtypes import in_dtype, widened
from dense_xp.support.products import matmul
from dense_xp.support.seeds import Rng
from dense_xp.support.trees import Params

BLOCK = 1 << 20
"""Weights that are converted at a time: 4 MiB of float32. Blocks of this size cost no more than all at once."""


class QuantizedDense(Layer):
    r"""A dense layer with weights of eight bits, :math:`Y = \mathrm{act}((X Q) s + w_0)`, which does not learn.

    It is made by :func:`quantize`, or read from a file; made by hand, it starts with zeros. Its products are taken in
    at least 32 bits. ``backward_pass`` returns the gradient with respect to the input; there is none for the weights.

    Parameters
    ----------
    n_units : int
        Number of outputs.
    input_shape : tuple of int, optional
        ``(n_in,)``.
    activation : str or Layer, optional
        Applied to the output.
    use_bias : bool, default True
        Whether there is a ``w0``.
    **kwargs
        See :class:`Layer`.

    References
    ----------
    .. [1] R. Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference: a whitepaper",
       2018 (symmetric quantizers, one scale for each channel), https://arxiv.org/abs/1806.08342

    Examples
    --------
    >>> from dense_xp import Dense
    >>> dense = Dense(3, (2,), rng=0)
    >>> dense.initialize()
    >>> quantize(dense).weights["W"].dtype
    dtype('int8')
    """

    buffers = ("W", "scale", "w0")
    integers = ("W",)

    def __init__(
        self,
        n_units: int,
        input_shape: tuple[int, ...] | None = None,
        *,
        activation: str | Layer | None = None,
        use_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(input_shape=input_shape, **kwargs)
        self.n_units = integer("n_units", n_units)
        self.activation = get_activation(activation)
        self.use_bias = bool(use_bias)

    def param_shapes(self) -> dict[str, tuple[int, int]]:
        """Return the shapes of ``W``, ``scale`` and ``w0``."""
        (n_in,) = self.known_input_shape()
        row = 1, self.n_units
        shapes = {"W": (n_in, self.n_units), "scale": row}
        return {**shapes, "w0": row} if self.use_bias else shapes

    def init_params(self, rng: Rng) -> Params:
        """Return zeros, and scales of one."""
        zeros = {name: np.zeros(shape) for name, shape in self.param_shapes().items()}
        return {**zeros, "W": zeros["W"].astype("int8"), "scale": zeros["scale"] + 1.0}

    def forward(self, params: Params, X: Array, *, training: bool = False, noise: Any = None) -> tuple[Array, Any]:
        """Return the output and what backward needs; see :meth:`Layer.forward`."""
        rows = widened(rows_of(X))
        parts = [matmul(rows, block) for _, block in _converted(params["W"], rows.dtype)]
        product = parts[0] if len(parts) == 1 else array_namespace(X).concat(parts, axis=1)
        return self.after_product(params, X, product, training=training)

    def after_product(self, params: Params, X: Array, product: Array, *, training: bool) -> tuple[Array, Any]:
        """Return the output and what backward needs, from :math:`X Q` in at least 32 bits.

        Parameters
        ----------
        params, X, training
            As in :meth:`forward`.
        product : array
            One row for each sample.
        """
        Z = product * widened(params["scale"])
        if "w0" in params:
            Z += widened(params["w0"])
        Z = in_dtype(Z, X.dtype)
        if X.ndim != 2:
            Z = array_namespace(X).reshape(Z, (*X.shape[:-1], self.n_units))
        return (Z, None) if self.activation is None else self.activation.forward({}, Z, training=training)

    def backward(self, params: Params, cache: Any, grad_Y: Array) -> tuple[Array, Params]:
        """Return grad_X, and no gradients; see :meth:`Layer.backward`."""
        grad_Z = grad_Y if self.activation is None else self.activation.backward({}, cache, grad_Y)[0]
        rows = widened(rows_of(grad_Z)) * widened(params["scale"])
        parts = [matmul(rows[:, columns], block.T) for columns, block in _converted(params["W"], rows.dtype)]
        grad_X = in_dtype(sum(parts[1:], parts[0]), grad_Y.dtype)
        return array_namespace(grad_Y).reshape(grad_X, (*grad_Y.shape[:-1], grad_X.shape[1])), {}

    def output_shape(self) -> tuple[int, ...]:
        """Return ``(n_units,)``."""
        return (self.n_units,)

    def get_config(self) -> dict[str, Any]:
        """Return what ``from_config`` needs to make the same layer."""
        return {
            "n_units": self.n_units,
            "activation": activation_config(self.activation),
            "use_bias": self.use_bias,
            **super().get_config(),
        }


def _converted(Q: Array, dtype: Any) -> Iterator[tuple[slice, Array]]:
    """Yield blocks of columns: their slice, and their values in that dtype."""
    n_in, n_units = Q.shape
    width = max(1, BLOCK // n_in)
    for start in range(0, n_units, width):
        columns = slice(start, min(start + width, n_units))
        yield columns, in_dtype(Q[:, columns], dtype)


def quantize(model: Layer) -> Any:
    """Return a trained model whose :class:`Dense` layers hold their weights in eight bits.

    The model itself is not changed; layers of other kinds are copied as they are. The rounding is done on the
    host, alike for every backend.

    Parameters
    ----------
    model : Layer
        Initialized. Adapters (:class:`LoRA`) are merged first, by :func:`merge_lora`.

    Returns
    -------
    Layer
        Of the same class, or a :class:`QuantizedDense` for a single :class:`Dense`.

    Raises
    ------
    RuntimeError
        If the model is not initialized.

    Examples
    --------
    >>> import numpy as np
    >>> from dense_xp import Dense, Sequential
    >>> model = Sequential([Dense(64, activation="relu"), Dense(3)], input_shape=(32,), rng=0)
    >>> model.initialize()
    >>> X = np.ones((5, 32))
    >>> bool(np.max(np.abs(quantize(model).predict(X) - model.predict(X))) < 0.01)
    True
    """
    model.built()
    return replaced(model, lambda layer: _quantized(layer) if type(layer) is Dense else layer)


def _quantized(dense: Dense) -> QuantizedDense:
    backend = dense.built()
    W = to_numpy(dense.W).astype("float64")
    with backend.scope():
        scale = backend.asarray(np.max(np.abs(W), axis=0, keepdims=True) / 127.0, dense.dtype)
        stored = to_numpy(scale).astype("float64")  # divide W by the rounded scale that it is multiplied with later
        quotients = np.divide(W, stored, out=np.zeros_like(W), where=stored > 0)
        Q = backend.asarray(np.clip(np.rint(quotients), -127, 127).astype("int8"))
    params = {"W": Q, "scale": scale} | ({"w0": dense.w0} if dense.use_bias else {})
    kept = ("n_units", "input_shape", "activation", "use_bias", "name", "trainable")
    config = {key: value for key, value in dense.get_config().items() if key in kept}
    quantized: QuantizedDense = in_place_of(QuantizedDense.from_config(config), dense, params)
    return quantized
