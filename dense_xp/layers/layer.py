"""The base class of layers: stateful passes on top of pure functions.

A kind of layer writes the pure half: :meth:`Layer.init_params`, :meth:`Layer.forward`, :meth:`Layer.backward`,
:meth:`Layer.output_shape`. :class:`Layer` builds the stateful half on them: ``initialize``,
``forward_pass``, ``backward_pass``.

A layer may instead override the stateful methods alone, with any library; models then call those.

The class inherits from four others, each in its own file: what a layer computes (``contract``), its settings
(``configured``), its backend and arrays (``placed``), and the rules for its weights (``rules``).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from dense_xp.backend import Array, Backend
from dense_xp.layers.contract import Contract
from dense_xp.layers.rules import Ruled
from dense_xp.learning.optimizer import apply_gradients
from dense_xp.support.trees import Params, merged, place


class Layer(Ruled):
    """Base class of every layer.

    Parameters
    ----------
    input_shape : tuple of int, optional
        Shape of one sample: ``(n_features,)``. Without it, it comes from the previous layer or from the
        first batch.
    name : str, optional
        Name in summaries and in the names of weights; by default that of the class.
    dtype : str, optional
        Dtype of parameters and results; by default ``"float32"``.
    backend : str or module or Backend, optional
        Where the layer lives; by default the setting in force when it is initialized.
    rng : int or numpy.random.Generator, optional
        Source of the initial weights; by default NumPy's global state.

    Attributes
    ----------
    trainable : bool
        Whether ``backward_pass`` changes the parameters. True at first.
    backend : Backend or None
        Where the layer lives; None until it is initialized, and fixed from then on.
    regularizers : mapping of str to Regularizer
        What parameters add to the loss; see :meth:`regularized`.
    constraints : mapping of str to callable
        What is applied to parameters after each step; see :meth:`constrained`.
    """

    _draws_noise: ClassVar[bool] = False  # whether the class defines draw_noise, and updated_buffers:
    _has_buffers: ClassVar[bool] = False  # this saves two calls where a whole pass takes two microseconds
    _dtype: Any = None  # the backend's dtype object
    _fast_type: Any = None  # arrays of this type and dtype, and of the shape of the last batch, need no checking
    _last_shape: Any = None
    _scoped: bool = False
    _remembered: tuple[Params, Any, tuple[int, ...]] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._draws_noise = cls.draw_noise is not Contract.draw_noise
        cls._has_buffers = cls.updated_buffers is not Contract.updated_buffers
        cls._pure = (
            cls.forward is not Contract.forward
            and _rests_on(cls, "forward_pass", "forward")
            and _rests_on(cls, "backward_pass", "backward")
        )

    def settle(self, backend: Backend) -> None:
        """Set the backend, and forget the last batch."""
        super().settle(backend)
        self._dtype, self._remembered, self._last_shape = backend.dtype(self.dtype), None, None
        self._scoped = backend.needs_scope or self._draws_noise
        self._fast_type = np.ndarray if backend.name == "numpy" else None

    @property
    def compiled(self) -> dict[Any, Any]:
        """Functions compiled for this layer; they are not part of its state."""
        functions: dict[Any, Any] = vars(self).setdefault("_compiled", {})
        return functions

    def __getstate__(self) -> dict[str, Any]:
        # the last batch is not part of the state, and the rest is set again
        unwanted = ("_remembered", "_last_shape", "_dtype", "_fast_type", "_scoped", "_compiled")
        return {key: value for key, value in super().__getstate__().items() if key not in unwanted}

    # ------------------------------------------------------------------ the two passes

    def forward_pass(self, X: Any, training: bool = True) -> Array:
        """Compute the output, and remember what :meth:`backward_pass` needs.

        Parameters
        ----------
        X : array, shape (..., n_features), or nested lists of numbers
            The batch, on the layer's device; integers and other precisions become the layer's dtype.
        training : bool, default True
            Whether this is a step of training (dropout, batch statistics).

        Returns
        -------
        array
            The output, in the layer's dtype.

        Raises
        ------
        ValueError
            If the shape is wrong or the batch is empty.
        ForeignArrayError
            If the array belongs to another library or device.
        """
        if self.backend is None:
            self.build_for(X)
        if not (type(X) is self._fast_type and X.dtype is self._dtype and X.shape == self._last_shape):
            X = self._accept_batch(X)
            self._last_shape = X.shape
        if self._scoped:
            with self.scope():
                return self._forward(X, training)
        try:
            return self._forward(X, training)
        except FloatingPointError:  # by numpy.seterr: again in a scope, which in every call would cost a third
            with self.scope():
                return self._forward(X, training)

    def _forward(self, X: Array, training: bool) -> Array:
        params = self.params
        noise = self._noise(X) if training and self._draws_noise else None
        Y, cache = self.forward(params, X, training=training, noise=noise)
        self._remembered = params, cache, Y.shape
        if training and self._has_buffers and (buffers := self.updated_buffers(cache)):
            self.params = merged(params, buffers)
        return Y

    def _noise(self, X: Array) -> Any:
        noise = self.draw_noise(self.rng, tuple(X.shape))
        return None if noise is None else place(self.built(), noise)

    def backward_pass(self, accum_grad: Any) -> Array:
        """Pull a gradient back through the last forward pass, then update the parameters if trainable.

        Parameters
        ----------
        accum_grad : array of the output's shape, or nested lists of numbers
            Gradient of the loss with respect to the output.

        Returns
        -------
        array, shape of the input
            Gradient with respect to the input, through the parameters as they were in the forward pass.

        Raises
        ------
        RuntimeError
            If there was no forward pass, or a trainable layer has no optimizer.
        ValueError, ForeignArrayError
            If the gradient has the wrong shape, library or device. The layer is left as it was.
        """
        if self._remembered is None:
            raise RuntimeError(f"{self.layer_name()}: backward_pass needs a forward_pass before it")
        with self.scope():
            return self._backward(accum_grad, *self._remembered)

    def _backward(self, accum_grad: Any, params: Params, cache: Any, shape: tuple[int, ...]) -> Array:
        accum_grad = self._check_gradient(accum_grad, shape)
        grad_X, grads = self.backward(params, cache, accum_grad)
        if self.trainable and grads:
            self._apply(self.with_penalty(params, grads))
        return grad_X

    def _check_gradient(self, accum_grad: Any, shape: tuple[int, ...]) -> Array:
        accum_grad = self.built().accept(accum_grad, self._dtype, "accum_grad")
        if tuple(accum_grad.shape) != tuple(shape):
            raise ValueError(
                f"{self.layer_name()}: accum_grad has shape {tuple(accum_grad.shape)}, "
                f"and the output of the forward pass had {tuple(shape)}"
            )
        return accum_grad

    def _apply(self, grads: Params) -> None:
        if self.optimizer is None:
            raise RuntimeError(
                f"{self.layer_name()} has no optimizer: call initialize(optimizer) before it is to learn, "
                "or set trainable = False"
            )
        rate = self.learning_rate()
        clipped = self.optimizer.clip(grads)
        params, state = apply_gradients(self.optimizer, self.params, clipped, self.optimizer_state, rate)
        self.params, self.optimizer_state = self.allowed(params), state
        self.steps += 1

    def learning_rate(self) -> float:
        """Return the learning rate of the next step."""
        assert self.optimizer is not None
        return self.optimizer.learning_rate_at(self.steps)

    def _accept_batch(self, X: Any) -> Array:
        X = self.built().accept(X, self._dtype)
        shape = tuple(X.shape)
        if not shape or (self.input_shape is not None and shape[-1:] != self.input_shape):
            expected = "n_features" if self.input_shape is None else self.input_shape[0]
            raise ValueError(
                f"X has shape {shape} and {self.layer_name()} expects (..., {expected}): "
                "the last axis holds the features"
            )
        if 0 in shape:
            raise ValueError(
                f"X has shape {shape}: the batch is empty. Skip empty batches; the pure forward(params, X) accepts them"
            )
        return X


def _rests_on(cls: type[Layer], stateful: str, pure: str) -> bool:
    """Whether a stateful method matches its pure function: it is not overridden below the class that defines that."""
    writer = {name: next(kind for kind in cls.__mro__ if name in vars(kind)) for name in (stateful, pure)}
    return writer[stateful] is Layer or issubclass(writer[pure], writer[stateful])
