"""A layer made of layers, one after the other: what is called a multi-layer perceptron.

It is a :class:`Layer` itself, pure when all its layers are. Its parameters are theirs: it holds no array
of its own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Self, TextIO

import numpy as np

from dense_xp.backend import Array, Backend, get_backend, resolve, use_backend
from dense_xp.layers.layer import Layer, is_pure, layer_class, with_inner
from dense_xp.learning import loss_scaling
from dense_xp.learning.losses import Loss
from dense_xp.learning.metrics import MetricLike
from dense_xp.learning.optimizers import Optimizer, as_optimizer
from dense_xp.support.seeds import Rng, as_rng
from dense_xp.support.trees import Params
from dense_xp.training import loop
from dense_xp.training.history import History


class Sequential(Layer):
    """Layers applied one after the other.

    Parameters
    ----------
    layers : sequence of Layer
        In the order in which data pass through them.
    input_shape : tuple of int, optional
        ``(n_features,)``. Without it, it comes from the first layer or the first batch.
    name, dtype, backend, rng
        See :class:`Layer`; layers without a setting of their own take these. One seed in ``rng`` fixes
        the initial weights, the order of the samples and dropout, on every backend alike.

    Raises
    ------
    TypeError
        If something in `layers` is not a layer.

    Examples
    --------
    >>> import numpy as np
    >>> from dense_xp import Adam, Dense, Sequential
    >>> X = np.linspace(-1, 1, 64)[:, None]
    >>> model = Sequential([Dense(32, activation="tanh"), Dense(1)], rng=0)
    >>> history = model.fit(X, X[:, 0] ** 2, epochs=200, batch_size=16, optimizer=Adam(0.01))
    >>> history["loss"][-1] < 1e-3
    True
    >>> model.predict(X).shape
    (64, 1)
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
        for layer in layers:
            self.add(layer)
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
            If it is not a layer, is in the model already or has a name that is, or if the model is
            initialized.
        """
        if not isinstance(layer, Layer):
            raise TypeError(
                f"Sequential takes layers, and this is a {type(layer).__name__}; "
                "a function becomes one as a subclass of Layer with forward and backward"
            )
        if self.backend is not None:
            raise RuntimeError("the model is initialized: make a new Sequential to change its layers")
        if any(layer is other for other in self.layers):
            raise ValueError(f"{layer!r} is in the model already; make a second one")
        self._items[self._key(layer)] = layer

    def _key(self, layer: Layer) -> str:
        """Return the name of a layer among its siblings: its own, or that of its class with a number."""
        if layer.name:
            if layer.name in self._items or "." in layer.name:
                raise ValueError(f"the name {layer.name!r} is taken or has a dot: name each layer differently")
            return layer.name
        stem = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(layer).__name__).lower()
        number = 0
        while (key := f"{stem}_{number}" if number else stem) in self._items:
            number += 1
        return key

    # ------------------------------------------------------------------ the pure half

    def init_params(self, rng: Rng) -> Params:
        """Draw the parameters of all layers, in order, under their names."""
        drawn = {key: layer.init_params(rng) for key, layer in self._items.items()}
        return {key: params for key, params in drawn.items() if params}

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
        grads: Params = {}
        for (key, layer), own_cache in zip(reversed(self._items.items()), reversed(cache), strict=True):
            grad_Y, own = layer.backward(params.get(key, {}), own_cache, grad_Y)
            if own and layer.trainable:
                grads[key] = own
        return grad_Y, grads

    def parameter_gradients(self, params: Params, cache: Any, grad_Y: Array) -> Params:
        """Return the gradients alone, going back no further than the first layer that learns."""
        learning = [i for i, (key, layer) in enumerate(self._items.items()) if params.get(key) and layer.trainable]
        grads: Params = {}
        items = list(self._items.items())
        for i in range(len(items) - 1, min(learning, default=len(items)) - 1, -1):
            key, layer = items[i]
            own_params = params.get(key, {})
            if i == learning[0]:
                own = layer.parameter_gradients(own_params, cache[i], grad_Y)
            else:
                grad_Y, own = layer.backward(own_params, cache[i], grad_Y)
            if own and i in learning:
                grads[key] = own
        return grads

    def updated_buffers(self, cache: Any) -> Params:
        """Return the new buffers of the layers that have some."""
        updated = {}
        for (key, layer), own_cache in zip(self._items.items(), cache, strict=True):
            if buffers := layer.updated_buffers(own_cache):
                updated[key] = buffers
        return updated

    def draw_noise(self, rng: Rng, batch_shape: tuple[int, ...]) -> Any:
        """Draw the noise of the layers that need some."""
        drawn = {}
        for key, layer in self._items.items():
            noise = layer.draw_noise(rng, (*batch_shape[:-1], *(layer.input_shape or batch_shape[-1:])))
            if noise is not None:
                drawn[key] = noise
        return drawn or None

    def penalty(self, params: Params) -> Array | None:
        """Return what the layers that learn add to the loss; None if nothing is asked of them."""
        terms: list[Array] = []
        for key, layer in self._items.items():
            if layer.trainable and (term := layer.penalty(params.get(key, {}))) is not None:
                terms.append(term)
        return sum(terms[1:], terms[0]) if terms else None

    def with_penalty(self, params: Params, grads: Params) -> Params:
        """Return the gradients with those of the penalties; see :meth:`Layer.with_penalty`."""
        return {key: self._items[key].with_penalty(params[key], own) for key, own in grads.items()}

    def allowed(self, params: Params) -> Params:
        """Return the parameters where the constraints want them, of the layers that learn."""
        learning = {key: own for key, own in params.items() if self._items[key].trainable}
        return {**params, **{key: self._items[key].allowed(own) for key, own in learning.items()}}

    def output_shape(self) -> tuple[int, ...]:
        """Return the shape of one output sample: that of the last layer."""
        return self.layers[-1].output_shape() if self._items else self._known_input_shape()

    # ------------------------------------------------------------------ the stateful half

    def initialize(self, optimizer: Any = None) -> None:
        """Connect the shapes of the layers and initialize each; see :meth:`Layer.initialize`.

        Raises
        ------
        ValueError
            If a layer does not fit the one before it, or has a backend of its own.
        """
        if not self._items:
            raise RuntimeError("the model has no layers: add some before it is initialized")
        optimizer = as_optimizer(optimizer)
        backend = resolve(self._setting("backend"))
        dtype = backend.dtype(self.dtype)
        rng = as_rng(self._setting("rng"))
        before = [(layer, dict(vars(layer))) for layer in with_inner(self)]
        try:
            with use_backend(backend):
                self._connect()
                for layer in self.layers:
                    _check_backend(layer, backend)
                    layer._inherited = {
                        "backend": backend,
                        "dtype": self.dtype,
                        "rng": None if rng is np.random else rng,
                    }
                    layer.initialize(optimizer)
        except BaseException:
            for layer, attributes in before:
                vars(layer).clear()
                vars(layer).update(attributes)
            raise
        self.optimizer, self.steps, self.loss_scale = optimizer, 0, loss_scaling.INITIAL
        self._rng = None if rng is np.random else rng
        super()._settle(backend, dtype)

    def _connect(self) -> None:
        shape = self.input_shape or self.layers[0].input_shape
        self.input_shape = shape
        for key, layer in self._items.items():
            if shape is not None and layer.input_shape not in (None, shape):
                raise ValueError(
                    f"the layer {key!r} has input_shape={layer.input_shape}, and what reaches it has {shape}: "
                    "leave its input_shape out, or change the layer before it"
                )
            if shape is not None and layer.input_shape is None:
                layer.set_input_shape(shape)
            layer._connect()
            try:
                shape = tuple(layer.output_shape())
            except RuntimeError:
                shape = None  # a layer that keeps the shape, before any layer that knows one
        if self.input_shape is None:
            self.input_shape = self.layers[0].input_shape

    def _settle(self, backend: Backend, dtype: Any) -> None:
        super()._settle(backend, dtype)
        for layer in self.layers:
            layer._settle(backend, dtype)
            layer._inherited = {**layer._inherited, "backend": backend}

    def set_optimizer(self, optimizer: Any) -> None:
        """Give every parameter a fresh copy of another optimizer; the weights stay."""
        if not is_pure(self):
            raise RuntimeError(
                "a layer with only the stateful methods takes its optimizer in initialize: "
                "call initialize(optimizer) before fit"
            )
        super().set_optimizer(optimizer)

    def _take_optimizer(self, optimizer: Optimizer | None) -> None:
        self.optimizer, self.steps, self.loss_scale = optimizer, 0, loss_scaling.INITIAL
        for layer in self.layers:
            layer._take_optimizer(optimizer)

    def parameters(self) -> int:
        """Count the scalars that training moves, over all layers."""
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
        """The params of the layers that have some, under their names."""
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

    # ------------------------------------------------------------------ learning and using

    def fit(
        self,
        X: Any,
        y: Any,
        epochs: int = 10,
        batch_size: int = 32,
        *,
        loss: str | Loss | None = None,
        optimizer: Any = None,
        metrics: Sequence[MetricLike] = (),
        validation_data: tuple[Any, ...] | None = None,
        sample_weight: Any = None,
        shuffle: bool = True,
        callbacks: Sequence[Any] = (),
        history: History | None = None,
        rng: Any = None,
        verbose: bool | None = None,
    ) -> History:
        """Learn from data.

        A model that is not initialized yet is initialized first, on the backend that is set or else on
        that of `X`. Host data are fed to the device batch by batch; data on the device stay there.

        Parameters
        ----------
        X : array, shape (n_samples, ..., n_features)
            On the host, or on the model's device; or one of SciPy's sparse matrices, made dense batch by batch.
        y : array
            Targets: class labels (integers) of shape (n_samples, ...), or one row for each output row.
            For a model with one output, one number for each sample also serves.
        epochs : int, default 10
            How often to go through the data.
        batch_size : int, default 32
            Samples in one step; the last batch of an epoch may be smaller.
        loss : str or Loss, optional
            By default :class:`SoftmaxCrossEntropy` for integer targets of a model with several outputs,
            and :class:`MeanSquaredError` otherwise.
        optimizer : Optimizer, str or object with ``update``, optional
            Starts afresh. By default the one that the model has, or else :class:`Adam`.
        metrics : sequence of str, Metric or callable
            Names such as ``"accuracy"``, ``"f1"`` or that of a loss; a :class:`Metric` such as :class:`AUC`; or
            functions of (prediction, target) or (prediction, target, weight), whose values are averaged over
            the batches.
        validation_data : tuple, optional
            ``(X, y)`` or ``(X, y, sample_weight)``, measured after each epoch.
        sample_weight : array, shape (n_samples, ...), optional
            How much each sample counts; not negative.
        shuffle : bool, default True
            Whether each epoch takes the samples in a new order.
        callbacks : sequence
            Such as :class:`EarlyStopping`; a function of the :class:`Run` is called after each epoch.
        history : History, optional
            That of an earlier training which goes on here: epochs are counted on, a copy of it is what is
            returned, and callbacks that watch it have seen it.
        rng : int or numpy.random.Generator, optional
            Source of the order and of dropout; by default the model's own.
        verbose : bool, optional
            Whether to show a progress bar; by default only on a terminal.

        Returns
        -------
        History
            Loss and metrics of each epoch, over all batches as they were trained on.

        Raises
        ------
        ValueError
            If shapes do not fit, a label is out of range, there are no samples, or a number is NaN.
        ForeignArrayError
            If data are on another device or in another library.
        DivergenceError
            If the loss becomes NaN or infinite. The model keeps its weights from before that epoch.
        """
        return loop.fit(
            self,
            X,
            y,
            epochs=epochs,
            batch_size=batch_size,
            loss=loss,
            optimizer=optimizer,
            metrics=metrics,
            validation_data=validation_data,
            sample_weight=sample_weight,
            shuffle=shuffle,
            callbacks=callbacks,
            history=history,
            rng=rng,
            verbose=verbose,
        )

    def predict(self, X: Any, *, batch_size: int = 1024) -> Array:
        """Compute the output for data, batch by batch.

        Parameters
        ----------
        X : array, shape (n_samples, ..., n_features)
            On the host or on the model's device; a sparse matrix of SciPy; or a dask array, which may be larger than
            memory.
        batch_size : int, default 1024
            How many samples are on the device at a time.

        Returns
        -------
        array
            Of the same kind as `X`: NumPy for host data, on the device for device data. For a dask array it
            is one too, and each block is computed when it is asked for.
        """
        return loop.predict(self, X, batch_size=batch_size)

    def evaluate(
        self,
        X: Any,
        y: Any,
        *,
        loss: str | Loss | None = None,
        metrics: Sequence[MetricLike] = (),
        sample_weight: Any = None,
        batch_size: int = 1024,
    ) -> dict[str, float]:
        """Measure loss and metrics on data, without learning from them.

        Parameters
        ----------
        X, y, loss, metrics, sample_weight
            As in :meth:`fit`.
        batch_size : int, default 1024
            How many samples are on the device at a time.

        Returns
        -------
        dict of str to float
            ``"loss"``, with the penalties of :meth:`Layer.regularized` in it, and each metric.
        """
        return loop.evaluate(self, X, y, loss=loss, metrics=metrics, sample_weight=sample_weight, batch_size=batch_size)

    def summary(self, file: TextIO | None = None) -> None:
        """Print a table of the layers, their output shapes and how many parameters they have.

        Parameters
        ----------
        file : text stream, optional
            Where to print; standard output by default.
        """
        rows = [("layer", "output shape", "parameters")]
        for key, layer in self._items.items():
            rows.append((_described(key, layer), _shape_text(layer), _count_text(layer)))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
        rule = "─" * len(lines[0])
        place = f"{self.dtype} on {self.backend}" if self.backend else "not initialized"
        total = f"{_count_text(self)} parameters, {place}"
        print(*(lines[0], rule, *lines[1:], rule, total), sep="\n", file=file or sys.stdout)

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
            As returned by :meth:`get_config`, or that through JSON.
        custom : sequence of Layer classes
            Classes beside the package's own that may occur in it.
        """
        layers = []
        for item in config["layers"]:
            kind = layer_class(item["class"], custom)
            inner = {"custom": custom} if issubclass(kind, Sequential) else {}
            layers.append(kind.from_config(item["config"], **inner))
        return super().from_config({**config, "layers": layers})

    def __repr__(self) -> str:
        settings = {k: v for k, v in super().get_config().items() if v is not None}
        tail = "".join(f", {key}={value!r}" for key, value in settings.items())
        inner = ",\n".join("    " + repr(layer).replace("\n", "\n    ") for layer in self.layers)
        return f"Sequential([\n{inner},\n]{tail})" if inner else f"Sequential([]{tail})"


def _check_backend(layer: Layer, backend: Backend) -> None:
    own = layer._own["backend"]
    if own is not None and get_backend(own) != backend:
        raise ValueError(
            f"{layer.layer_name()} has backend={str(own)!r} and the model is on {str(backend)!r}: "
            "all layers of a model share one; set it on the model alone"
        )


def _described(key: str, layer: Layer) -> str:
    activation = getattr(layer, "activation", None)
    text = f"{key} ({type(layer).__name__}"
    text += f", {activation.layer_name()})" if isinstance(activation, Layer) else ")"
    return text if layer.trainable else f"{text} frozen"


def _shape_text(layer: Layer) -> str:
    try:
        return f"(…, {', '.join(map(str, layer.output_shape()))})"
    except RuntimeError:
        return "?"


def _count_text(layer: Layer) -> str:
    try:
        return f"{layer.parameters():,}"
    except RuntimeError:
        return "?"
