"""What a kind of layer writes: pure functions of arrays.

They store nothing and do not write into their arguments. So a whole training step can be compiled, checked or exported.
:class:`~dense_xp.layers.layer.Layer` builds the stateful methods on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from dense_xp.backend import Array
from dense_xp.support.seeds import Rng
from dense_xp.support.trees import Params


class Contract:
    """The pure half of a layer; see :class:`~dense_xp.layers.layer.Layer`."""

    # Class-level defaults: a subclass that never calls super().__init__() still has them.
    input_shape: tuple[int, ...] | None = None
    trainable: bool = True
    name: str | None = None

    buffers: ClassVar[tuple[str, ...]] = ()
    """Names of the params that have no gradient, such as running statistics."""

    integers: ClassVar[tuple[str, ...]] = ()
    """Names of the buffers that hold integers and so keep their dtype, such as quantized weights."""

    _pure: ClassVar[bool] = False

    @property
    def children(self) -> Mapping[str, Any]:
        """The layers inside this one, by name; empty for a layer with arrays of its own."""
        return {}

    def layer_name(self) -> str:
        """Return the name of the layer: its own, or that of its class."""
        return self.name or type(self).__name__

    # ------------------------------------------------------------------ shapes

    def known_input_shape(self) -> tuple[int, ...]:
        """Return the shape of one input sample.

        Raises
        ------
        RuntimeError
            If it is not known yet.
        """
        if self.input_shape is None:
            raise RuntimeError(
                f"{self.layer_name()} does not know its input shape: pass input_shape=(n_features,), "
                "call set_input_shape, or show it a first batch with forward_pass"
            )
        return self.input_shape

    def output_shape(self) -> tuple[int, ...]:
        """Return the shape of one output sample; by default that of the input.

        Raises
        ------
        RuntimeError
            If it is not known yet.
        """
        return self.known_input_shape()

    def param_shapes(self) -> dict[str, Any]:
        """Return the shape of each array that :meth:`init_params` draws; by default it draws them to find out.

        Returns
        -------
        dict of str to tuple of int
            For a layer made of layers, one dict for each of them.
        """
        return {name: np.shape(value) for name, value in self.init_params(np.random.default_rng(0)).items()}

    def connect(self) -> None:
        """Pass the input shape on to the layers inside this one, if it has any."""

    # ------------------------------------------------------------------ the two passes

    def init_params(self, rng: Rng) -> Params:
        """Draw the initial parameters and buffers, as NumPy arrays on the host.

        Parameters
        ----------
        rng : numpy.random.Generator or the module numpy.random
            Source of random numbers; only what both have may be used.

        Returns
        -------
        dict of str to numpy.ndarray
            Everything that :meth:`forward` reads; empty if there is nothing to learn.
        """
        return {}

    def forward(self, params: Params, X: Array, *, training: bool = False, noise: Any = None) -> tuple[Array, Any]:
        """Compute the output from the input: a pure function.

        Parameters
        ----------
        params : dict
            As from :meth:`init_params`, on the device.
        X : array, shape (..., n_features)
            The batch.
        training : bool
            Whether this is a step of training (dropout, batch statistics).
        noise : object
            As from :meth:`draw_noise`, on the device.

        Returns
        -------
        Y : array
            The output.
        cache : object
            What :meth:`backward` and :meth:`updated_buffers` need.
        """
        raise NotImplementedError(
            f"{type(self).__name__} writes neither forward and backward (the pure half) "
            "nor forward_pass and backward_pass (the stateful half): write one of the pairs"
        )

    def backward(self, params: Params, cache: Any, grad_Y: Array) -> tuple[Array, Params]:
        """Pull a gradient back through :meth:`forward`: a pure function.

        Parameters
        ----------
        params, cache
            Those of the forward call.
        grad_Y : array
            Gradient of the loss with respect to the output.

        Returns
        -------
        grad_X : array
            Gradient with respect to the input.
        grads : dict
            Gradient with respect to each parameter, under the same keys (none for buffers).
        """
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def parameter_gradients(self, params: Params, cache: Any, grad_Y: Array) -> Params:
        """Return the ``grads`` of :meth:`backward` alone, as a first layer needs no grad_X.

        Parameters
        ----------
        params, cache, grad_Y
            As in :meth:`backward`.
        """
        return self.backward(params, cache, grad_Y)[1]

    def updated_buffers(self, cache: Any) -> Params:
        """Return the new values of the buffers after a forward call in training.

        Parameters
        ----------
        cache : object
            That of the forward call.
        """
        return {}

    def draw_noise(self, rng: Rng, batch_shape: tuple[int, ...]) -> Any:
        """Draw on the host the random numbers that one training step on such a batch needs.

        They are an input of the step, so that it stays a pure function and every backend sees the same bits.

        Parameters
        ----------
        rng : numpy.random.Generator or the module numpy.random
            Source of random numbers; only what both have may be used.
        batch_shape : tuple of int
            Shape of the layer's input.

        Returns
        -------
        numpy.ndarray or dict or None
            None if the layer needs none.
        """
        return None

    # ------------------------------------------------------------------ what is kept beside the params

    def get_state(self) -> dict[str, Any]:
        """Return what the layer keeps beside its params: arrays and numbers by name, which are then copied.

        A layer with only the stateful methods needs this and :meth:`set_state` to be saved, and to be restored by
        early stopping or after a failed step.
        """
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_state` returned; arrays from a file are NumPy's.

        Parameters
        ----------
        state : dict
            Copies that the layer may keep.
        """


def with_inner(layer: Any) -> Iterator[Any]:
    """Yield a layer and all layers inside it, however deep."""
    yield layer
    for inner in layer.children.values():
        yield from with_inner(inner)


def is_pure(layer: Contract) -> bool:
    """Whether the pure half describes what the stateful methods do, so that a step may be compiled.

    False without a pure half, or where ``forward_pass`` or ``backward_pass`` is overridden in a subclass of the class
    that defines the pure function.
    """
    return layer._pure and (not (inner := layer.children) or all(map(is_pure, inner.values())))
