"""Low-rank adaptation: a trained layer stays as it is, and a product of two thin matrices learns beside it.

    Y = act(X W + w0 + (α/r) (X A) B)      A of shape (n_in, r), B of shape (r, n_units)

Only A and B learn. B starts at zero, so that at first nothing changes; in the end the product is added to W, which
leaves a plain layer at the old cost.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Self

import numpy as np

from dense_xp.backend import Array, use_backend
from dense_xp.layers.contract import with_inner
from dense_xp.layers.dense import Dense, product, rows_of
from dense_xp.layers.initializers import LeCunNormal
from dense_xp.layers.layer import Layer
from dense_xp.layers.surgery import in_place_of, replaced
from dense_xp.learning.special import row_for
from dense_xp.support.checks import integer, real
from dense_xp.support.dtypes import in_dtype, widened
from dense_xp.support.products import matmul
from dense_xp.support.registry import settings_of
from dense_xp.support.seeds import Rng
from dense_xp.support.trees import Params


class LoRA(Layer):
    r"""A frozen :class:`Dense` with an adapter, :math:`Y = \mathrm{act}(X W + w_0 + \frac{α}{r} (X A) B)`.

    A starts normal with the variance 1/n_in, B at zero. Made from an initialized dense layer, it is initialized too, on
    the same backend and with the same arrays: it computes the same, and learns once it has an optimizer. A later
    ``initialize`` draws A and B anew, but never W.

    Parameters
    ----------
    dense : Dense
        The layer that is adapted. It is not changed.
    rank : int
        The rank r of what is added to W; at most n_in and n_units.
    alpha : float, optional
        The scale α, with which one learning rate suits every rank; by default r.
    **kwargs
        See :class:`Layer`; by default those of the dense layer.

    Raises
    ------
    TypeError
        If `dense` is not a :class:`Dense`.
    ValueError
        If rank or alpha is out of range.

    References
    ----------
    .. [1] E. Hu et al., "LoRA: low-rank adaptation of large language models", ICLR 2022, sec. 4.1,
       https://arxiv.org/abs/2106.09685

    Examples
    --------
    >>> import numpy as np
    >>> from dense_xp import SGD, Dense
    >>> dense = Dense(3, (2,), rng=0)
    >>> dense.initialize()
    >>> layer = LoRA(dense, rank=1)
    >>> bool((layer.forward_pass([[1, 2]]) == dense.forward_pass([[1, 2]])).all())
    True
    >>> layer.parameters(), dense.parameters()
    (5, 9)
    """

    buffers = ("W", "w0")

    def __init__(self, dense: Dense, rank: int, *, alpha: float | None = None, **kwargs: Any) -> None:
        if type(dense) is not Dense:  # a subclass may compute something else
            raise TypeError(f"LoRA adapts a Dense layer, and this is a {type(dense).__name__}")
        self.rank = integer("rank", rank)
        self.alpha = float(rank) if alpha is None else real("alpha", alpha, "(0, inf)")
        self.dense = Dense.from_config(dense.get_config())  # a pattern, without arrays
        own = dense.settings
        settings = {"backend": own.backend, "dtype": own.dtype, "rng": own.rng, **kwargs}
        super().__init__(**{"input_shape": dense.input_shape, "name": dense.name, **settings})
        self.settings = replace(self.settings, inherited=own.inherited)
        if dense.backend is not None:
            self.params = dense.params  # of which init_params keeps W and w0
            with use_backend(dense.backend):
                self.build()

    @property
    def activation(self) -> Layer | None:
        """The activation of the dense layer."""
        return self.dense.activation

    @property
    def n_units(self) -> int:
        """The number of outputs."""
        return self.dense.n_units

    @property
    def scale(self) -> float:
        """The factor α/r of the product of A and B."""
        return self.alpha / self.rank

    def set_input_shape(self, shape: tuple[int, ...]) -> None:
        """Set the shape of one sample; see :meth:`Layer.set_input_shape`."""
        super().set_input_shape(shape)
        self.dense.set_input_shape(shape)

    # ------------------------------------------------------------------ the mathematics

    def init_params(self, rng: Rng) -> Params:
        """Draw A and B; and W and w0 as the dense layer does, if there are none yet."""
        shapes = self.param_shapes()
        frozen = self._frozen() or self.dense.init_params(rng)
        return {**frozen, "A": LeCunNormal()(shapes["A"], rng), "B": np.zeros(shapes["B"])}

    def param_shapes(self) -> dict[str, Any]:
        """Return the shapes of W, w0, A and B."""
        (n_in,) = self.known_input_shape()
        if self.rank > min(n_in, self.n_units):
            raise ValueError(f"rank is {self.rank}, and is at most the smaller side of W, {(n_in, self.n_units)}")
        return {**self.dense.param_shapes(), "A": (n_in, self.rank), "B": (self.rank, self.n_units)}

    def _frozen(self) -> Params:
        return {name: value for name, value in self.params.items() if name in self.buffers}

    def forward(self, params: Params, X: Array, *, training: bool = False, noise: Any = None) -> tuple[Array, Any]:
        """Return the output and what backward needs; see :meth:`Layer.forward`."""
        low = product(X, params["A"])
        Z = product(X, params["W"])
        if "w0" in params:
            Z += row_for(params["w0"], Z)
        Z += self.scale * product(low, params["B"])
        if self.activation is None:
            return Z, (X, low, None)
        Y, hidden = self.activation.forward({}, Z, training=training)
        return Y, (X, low, hidden)

    def backward(self, params: Params, cache: Any, grad_Y: Array) -> tuple[Array, Params]:
        """Return grad_X and the gradients of A and B; see :meth:`Layer.backward`."""
        grad_Z, grad_low, grads = self._gradients(params, cache, grad_Y)
        return product(grad_Z, params["W"].T) + product(grad_low, params["A"].T), grads

    def parameter_gradients(self, params: Params, cache: Any, grad_Y: Array) -> Params:
        """Return the gradients of A and B alone."""
        return self._gradients(params, cache, grad_Y)[2]

    def _gradients(self, params: Params, cache: Any, grad_Y: Array) -> tuple[Array, Array, Params]:
        X, low, hidden = cache
        grad_Z = self.dense.through_activation(hidden, grad_Y)
        scaled = self.scale * grad_Z
        grad_low = product(scaled, params["B"].T)
        grads = {"A": matmul(rows_of(X).T, rows_of(grad_low)), "B": matmul(rows_of(low).T, rows_of(scaled))}
        return grad_Z, grad_low, grads

    def output_shape(self) -> tuple[int, ...]:
        """Return ``(n_units,)``."""
        return (self.n_units,)

    # ------------------------------------------------------------------ merging

    def merge(self) -> Dense:
        """Return a plain :class:`Dense` with the weights W + (α/r) A B, that computes the same.

        Raises
        ------
        RuntimeError
            If the layer is not initialized.
        """
        with self.scope():
            W, A, B = (self.params[name] for name in ("W", "A", "B"))
            merged = in_dtype(widened(W) + self.scale * (widened(A) @ widened(B)), W.dtype)
        dense = Dense.from_config({**self.dense.get_config(), "input_shape": self.input_shape, "name": self.name})
        merged_dense: Dense = in_place_of(dense, self, {**self._frozen(), "W": merged})
        return merged_dense

    # ------------------------------------------------------------------ configuration

    def get_config(self) -> dict[str, Any]:
        """Return what ``from_config`` needs to make the same layer."""
        return {"dense": self.dense.get_config(), "rank": self.rank, "alpha": self.alpha, **super().get_config()}

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Make a layer from what :meth:`get_config` returned; its weights are drawn anew."""
        given = settings_of(cls.__name__, config, "dense")
        return super().from_config({**given, "dense": Dense.from_config(given["dense"])})


def add_lora(model: Layer, rank: int, *, alpha: float | None = None) -> Any:
    """Return a trained model with an adapter on every :class:`Dense`, and everything else frozen.

    The model itself is not changed. The new one computes the same until it is trained; it gets its optimizer in
    ``fit``.

    Parameters
    ----------
    model : Layer
        Initialized.
    rank, alpha
        See :class:`LoRA`. In a layer with fewer inputs or outputs the rank is lower; the scale stays the same.

    Returns
    -------
    Layer
        Of the same class, or a :class:`LoRA` for a single :class:`Dense`.

    Raises
    ------
    RuntimeError
        If the model is not initialized.

    Examples
    --------
    >>> from dense_xp import Dense, Sequential
    >>> model = Sequential([Dense(64, activation="relu"), Dense(1)], input_shape=(32,), rng=0)
    >>> model.initialize()
    >>> adapted = add_lora(model, rank=4)
    >>> adapted.parameters(), model.parameters()
    (449, 2177)
    """
    model.built()
    rank = integer("rank", rank)
    scale = 1.0 if alpha is None else real("alpha", alpha, "(0, inf)") / rank
    rng = None if model.rng is np.random else copy.deepcopy(model.rng)  # draw nothing from the model's own

    def adapted(layer: Layer) -> Layer:
        if type(layer) is not Dense:
            return layer
        largest = min(rank, layer.n_units, *layer.known_input_shape())
        adapter = LoRA(layer, largest, alpha=scale * largest, rng=rng)
        adapter.settings = layer.settings
        return adapter

    new = replaced(model, adapted)
    for layer in with_inner(new):
        if not layer.children:  # a container has no parameters of its own
            layer.trainable = isinstance(layer, LoRA)
    return new


def merge_lora(model: Layer) -> Any:
    """Return a model with every :class:`LoRA` merged into a plain :class:`Dense`; other layers stay as they are.

    Parameters
    ----------
    model : Layer
        Initialized; it is not changed.

    Returns
    -------
    Layer
        Of the same class, or a :class:`Dense` for a single :class:`LoRA`.

    Examples
    --------
    >>> from dense_xp import Dense
    >>> dense = Dense(3, (2,), rng=0)
    >>> dense.initialize()
    >>> bool((merge_lora(add_lora(dense, rank=1)).W == dense.W).all())
    True
    """
    return replaced(model, lambda layer: layer.merge() if isinstance(layer, LoRA) else layer)
