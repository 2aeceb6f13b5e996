"""Layers in a row, as one layer.

It is pure when all its layers are, and holds no arrays of its own.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from dense_xp.backend import Array, Backend, get_backend, resolve, use_backend
from dense_xp.layers.configured import layer_of
from dense_xp.layers.contract import is_pure
from dense_xp.layers.layer import Layer
from dense_xp.layers.placed import build_with, unchanged_on_failure
from dense_xp.learning import loss_scaling
from dense_xp.learning.optimizers import as_optimizer
from dense_xp.support.checks import several
from dense_xp.support.registry import settings_of
from dense_xp.support.seeds import Rng, as_rng
from dense_xp.support.trees import Params


class Chain(Layer):
    """Layers applied one after the other; :class:`dense_xp.Sequential` adds what is done with data.

    Parameters
    ----------
    layers : sequence of Layer
        In the order in which data pass through them.
    input_shape, name, dtype, backend, rng
        See :class:`dense_xp.Sequential`.
    """

    def __init__(
        self,
        layers: Sequence[Layer] = (),
        *,
        input_shape: tuple[int, ...] | None = None,
        name: str | None = None,
        dtype: str | None = None,
        backend: Any = None,
        rng: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype, backend=backend, rng=rng)
        self._items: dict[str, Layer] = {}
        self._numbers: dict[str, int] = {}  # the last number given to each kind of layer
        seen: set[int] = set()
        for layer in several("layers", layers):
            self._append(layer, seen)
        if input_shape is not None:
            self.set_input_shape(input_shape)

    @property
    def children(self) -> Mapping[str, Layer]:
        """The layers by name, in order."""
        return self._items

    @property
    def layers(self) -> list[Layer]:
        """The layers, in order."""
        return list(self._items.values())

    def add(self, layer: Layer) -> None:
        """Append a layer.

        Parameters
        ----------
        layer : Layer
            What the data pass through next.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            If it is not a layer, if it or its name is in the model already, or if the model is initialized.
        """
        self._append(layer, set(map(id, self._items.values())))

    def _append(self, layer: Layer, seen: set[int]) -> None:
        """Append a layer; `seen` has the ids of those before it, so that the check does not grow with the model."""
        if not isinstance(layer, Layer):
            kind = type(layer).__name__
            remedy = "a function becomes one as a subclass of Layer with forward and backward"
            if hasattr(layer, "forward_pass"):
                remedy = f"what has the two passes becomes one by inheritance: class Mine({kind}, Layer): pass"
            raise TypeError(f"Sequential takes layers, and this is a {kind}; {remedy}")
        if self.backend is not None:
            raise RuntimeError("the model is initialized: make a new Sequential to change its layers")
        if id(layer) in seen:
            raise ValueError(f"{layer!r} is in the model already; make a second one")
        self._items[self._key(layer)] = layer
        seen.add(id(layer))

    def _key(self, layer: Layer) -> str:
        """Return the name of a layer among its siblings: its own, or that of its class with a number."""
        if layer.name:
            if layer.name in self._items or "." in layer.name:
                raise ValueError(f"the name {layer.name!r} is taken or has a dot: name each layer differently")
            return layer.name
        stem = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(layer).__name__).lower()
        number = self._numbers.get(stem, 0)
        while (key := f"{stem}_{number}" if number else stem) in self._items:
            number += 1
        self._numbers[stem] = number
        return key

    # ------------------------------------------------------------------ the pure half

    def param_shapes(self) -> dict[str, Any]:
        """Return the shapes of the arrays of all layers, under their names."""
        return {key: own for key, layer in self._items.items() if (own := layer.param_shapes())}

    def init_params(self, rng: Rng) -> Params:
        """Draw the parameters of all layers, in order, under their names."""
        return {key: own for key, layer in self._items.items() if (own := layer.init_params(rng))}

    def forward(self, params: Params, X: Array, *, training: bool = False, noise: Any = None) -> tuple[Array, Any]:
        """Return the last output and the caches of all layers; see :meth:`Layer.forward`."""
        caches = []
        noise = noise or {}
        for key, layer in self._items.items():
            X, cache = layer.forward(params.get(key, {}), X, training=training, noise=noise.get(key))
            caches.append(cache)
        return X, caches

    def backward(self, params: Params, cache: Any, grad_Y: Array) -> tuple[Array, Params]:
        """Return grad_X and the gradients of every layer that is trainable, under its name."""
        return self._pulled_back(params, cache, grad_Y, self._items.items())

    def parameter_gradients(self, params: Params, cache: Any, grad_Y: Array) -> Params:
        """Return the gradients alone, going back no further than the first layer that learns."""
        items = list(self._items.items())
        first = next((i for i, (key, layer) in enumerate(items) if params.get(key) and layer.trainable), None)
        if first is None:
            return {}
        grad_Y, grads = self._pulled_back(params, cache[first + 1 :], grad_Y, items[first + 1 :])
        key, layer = items[first]
        own = layer.parameter_gradients(params[key], cache[first], grad_Y)
        return {**grads, key: own} if own else grads

    def _pulled_back(self, params: Params, caches: Any, grad_Y: Array, items: Any) -> tuple[Array, Params]:
        grads: Params = {}
        for (key, layer), cache in zip(reversed(items), reversed(caches), strict=True):
            grad_Y, own = layer.backward(params.get(key, {}), cache, grad_Y)
            if own and layer.trainable:
                grads[key] = own
        return grad_Y, grads

    def updated_buffers(self, cache: Any) -> Params:
        """Return the new buffers of the layers that have some."""
        layers = zip(self._items.items(), cache, strict=True)
        return {key: buffers for (key, layer), own in layers if (buffers := layer.updated_buffers(own))}

    def draw_noise(self, rng: Rng, batch_shape: tuple[int, ...]) -> Any:
        """Draw the noise of the layers that need some."""
        drawn = {}
        for key, layer in self._items.items():
            noise = layer.draw_noise(rng, (*batch_shape[:-1], *(layer.input_shape or batch_shape[-1:])))
            if noise is not None:
                drawn[key] = noise
        return drawn or None

    def penalty(self, params: Params) -> Array | None:
        """Return what the layers that learn add to the loss; None without a penalty."""
        terms = [layer.penalty(params.get(key, {})) for key, layer in self._items.items() if layer.trainable]
        known = [term for term in terms if term is not None]
        return sum(known[1:], known[0]) if known else None

    def with_penalty(self, params: Params, grads: Params) -> Params:
        """Return the gradients with those of the penalties; see :meth:`Layer.with_penalty`."""
        return {key: self._items[key].with_penalty(params[key], own) for key, own in grads.items()}

    def allowed(self, params: Params) -> Params:
        """Return the parameters after the constraints of the trainable layers."""
        learning = {key: own for key, own in params.items() if self._items[key].trainable}
        return {**params, **{key: self._items[key].allowed(own) for key, own in learning.items()}}

    def output_shape(self) -> tuple[int, ...]:
        """Return the shape of one output sample: that of the last layer."""
        return self.layers[-1].output_shape() if self._items else self.known_input_shape()

    # ------------------------------------------------------------------ initialization

    def build(self, optimizer: Any = None, params: Params | None = None) -> None:
        """Connect the shapes of the layers and build each; see :meth:`Layer.build`.

        Raises
        ------
        ValueError
            If a layer does not fit the one before it, or has a backend of its own.
        """
        if not self._items:
            raise RuntimeError("the model has no layers: add some before it is initialized")
        optimizer = as_optimizer(optimizer)
        backend = resolve(self.setting("backend"))
        rng = as_rng(self.setting("rng"))
        with unchanged_on_failure(self), use_backend(backend):
            self.connect()
            if params is not None:
                self.check_given(params)
            for key, layer in self._items.items():
                _check_backend(layer, backend)
                layer.inherit(backend, self.dtype, None if rng is np.random else rng)
                build_with(layer, optimizer, None if params is None else params.get(key, {}))
            super().settle(backend)
        self.optimizer, self.steps, self.loss_scale = optimizer, 0, loss_scaling.INITIAL
        self.rng = rng

    def connect(self) -> None:
        """Pass the shapes on from layer to layer."""
        shape = self.input_shape = self.input_shape or self.layers[0].input_shape
        for key, layer in self._items.items():
            if shape is not None and layer.input_shape not in (None, shape):
                raise ValueError(
                    f"the layer {key!r} has input_shape={layer.input_shape}, and what reaches it has {shape}: "
                    "leave its input_shape out, or change the layer before it"
                )
            if shape is not None and layer.input_shape is None:
                layer.set_input_shape(shape)
            layer.connect()
            try:
                shape = tuple(layer.output_shape())
            except RuntimeError:
                shape = None  # the layer keeps its input's shape, which is not known yet
        self.input_shape = self.input_shape or self.layers[0].input_shape

    def settle(self, backend: Backend) -> None:
        """Set the backend of all layers."""
        super().settle(backend)
        for layer in self.layers:
            layer.settle(backend)
            layer.inherit(backend, self.dtype, None if self.rng is np.random else self.rng)

    def set_optimizer(self, optimizer: Any) -> None:
        """Give every parameter a fresh copy of another optimizer; the weights stay."""
        if not is_pure(self):
            raise RuntimeError(
                "a layer with only the stateful methods takes its optimizer in initialize: "
                "call initialize(optimizer) before fit"
            )
        self.built()
        optimizer = as_optimizer(optimizer)
        for layer in self.layers:
            layer.set_optimizer(optimizer)
        self.optimizer, self.steps, self.loss_scale = optimizer, 0, loss_scaling.INITIAL

    def with_layers(self, layers: Mapping[str, Layer]) -> Self:
        """Return a copy of this model with other layers under the same names.

        Parameters
        ----------
        layers : mapping of str to Layer
            Initialized, on the model's backend.
        """
        other = object.__new__(type(self))
        vars(other).update(self.__getstate__(), _items=dict(layers), _rng=copy.deepcopy(self._rng))
        super(Chain, other).settle(self.built())
        return other

    # ------------------------------------------------------------------ the two passes, and the arrays

    def parameters(self) -> int:
        """Count the scalars of the parameters of all layers."""
        return sum(layer.parameters() for layer in self.layers)

    def _forward(self, X: Array, training: bool) -> Array:
        if is_pure(self):
            return super()._forward(X, training)
        for layer in self.layers:
            X = layer.forward_pass(X, training)
        self._remembered = {}, None, X.shape
        return X

    def _backward(self, accum_grad: Any, params: Params, cache: Any, shape: tuple[int, ...]) -> Array:
        if is_pure(self):
            return super()._backward(accum_grad, params, cache, shape)
        accum_grad = self._check_gradient(accum_grad, shape)
        for layer in reversed(self.layers):
            accum_grad = layer.backward_pass(accum_grad)
        return accum_grad

    @property
    def params(self) -> Params:
        """The params of each layer that has any, by the layer's name."""
        return {key: layer.params for key, layer in self._items.items() if layer.params}

    @params.setter
    def params(self, params: Params) -> None:
        for key, own in params.items():
            self._items[key].params = own

    @property
    def optimizer_state(self) -> Params:
        """The optimizer's state for each parameter, under the same keys."""
        return {key: layer.optimizer_state for key, layer in self._items.items() if layer.optimizer_state}

    @optimizer_state.setter
    def optimizer_state(self, state: Params) -> None:
        for key, own in state.items():
            self._items[key].optimizer_state = own

    # ------------------------------------------------------------------ configuration

    def get_config(self) -> dict[str, Any]:
        """Return what :meth:`from_config` needs to make the same model."""
        layers = [{"class": type(layer).__name__, "config": layer.get_config()} for layer in self.layers]
        return {"layers": layers, **super().get_config()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom: Sequence[type[Layer]] = ()) -> Self:
        """Make a model from what :meth:`get_config` returned; its weights are drawn anew.

        Parameters
        ----------
        config : mapping
            As returned by :meth:`get_config`, possibly through JSON.
        custom : sequence of Layer classes
            Classes that may occur in it besides the package's own.
        """
        given = settings_of(cls.__name__, config, "layers")
        given["layers"] = [layer_of(item, custom) for item in several("layers", given["layers"])]
        return super().from_config(given)

    def __repr__(self) -> str:
        settings = {k: v for k, v in super().get_config().items() if v is not None}
        tail = "".join(f", {key}={value!r}" for key, value in settings.items())
        inner = ",\n".join("    " + repr(layer).replace("\n", "\n    ") for layer in self.layers)
        kind = type(self).__name__
        return f"{kind}([\n{inner},\n]{tail})" if inner else f"{kind}([]{tail})"


def _check_backend(layer: Layer, backend: Backend) -> None:
    own = layer.settings.backend
    if own is not None and get_backend(own) != backend:
        raise ValueError(
            f"{layer.layer_name()} has backend={str(own)!r} and the model is on {str(backend)!r}: "
            "all layers of a model share one; set it on the model alone"
        )
