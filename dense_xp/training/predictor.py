"""Fast prediction for many calls: what can be prepared is prepared once.

On the host, dense layers in a row are one kernel, with ReLU or without; the layers between them are computed by their
pure functions. On JAX the number of rows is rounded up to a power of two, so that few shapes are traced. On CuPy the
work for a shape that comes often is recorded as a CUDA graph.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dense_xp.backend import Array, Backend
from dense_xp.kernels import kernels_for, optional
from dense_xp.layers.activations import ReLU
from dense_xp.layers.chain import Chain
from dense_xp.layers.contract import is_pure, with_inner
from dense_xp.layers.dense import Dense, rows_of
from dense_xp.layers.dropout import Dropout
from dense_xp.layers.layer import Layer
from dense_xp.layers.quantization import QuantizedDense
from dense_xp.support.checks import integer
from dense_xp.support.dtypes import widened
from dense_xp.support.products import taken_by
from dense_xp.support.trees import Params
from dense_xp.training.compiled import compile_once
from dense_xp.training.samples import model_input, slices

Output = Callable[[Array], Array]

FEW = 32
"""Up to so many rows, 8-bit weights are multiplied as they are; for more, it pays to convert them for BLAS."""


def needs_built(model: Layer) -> Backend:
    """Return the backend of an initialized model, or raise RuntimeError."""
    if model.backend is None:
        raise RuntimeError(f"{model.layer_name()} is not initialized: call fit or initialize first")
    return model.backend


class Predictor:
    """Computes the output of a model; what :meth:`Sequential.predictor` returns.

    It may be called from several threads at the same time. Weights that were replaced since (by ``fit``,
    ``set_weights``, ``to``) are noticed. Numbers written into a weight array of NumPy are not, as weights are packed;
    :meth:`Sequential.predict` notices them too, which takes the time to read them.

    Parameters
    ----------
    model : Layer
        Initialized.
    batch_size : int, default 1024
        How many samples are on the device at a time.

    Examples
    --------
    >>> import numpy as np
    >>> from dense_xp import Dense, Sequential
    >>> model = Sequential([Dense(4, activation="relu"), Dense(2)], input_shape=(3,), rng=0)
    >>> model.initialize()
    >>> answer = model.predictor()
    >>> answer(np.ones((5, 3), dtype="float32")).shape
    (5, 2)
    """

    def __init__(self, model: Layer, batch_size: int = 1024) -> None:
        needs_built(model)
        self.model, self.batch_size = model, integer("batch_size", batch_size, 1)
        self._prepared = _Prepared(model)

    def __repr__(self) -> str:
        return f"Predictor({self.model.layer_name()}, batch_size={self.batch_size})"

    def _current(self) -> _Prepared:
        """Return what was prepared; prepare it anew if weights, an activation or the backend were replaced."""
        prepared = self._prepared
        if prepared.backend is self.model.backend:
            for layer, params, activation in prepared.layers:
                if layer.params is not params or getattr(layer, "activation", None) is not activation:
                    break
            else:
                return prepared
        self._prepared = prepared = _Prepared(self.model)
        return prepared

    def __call__(self, X: Any) -> Array:
        """Compute the output for data; see :meth:`Sequential.predict`.

        Parameters
        ----------
        X : array, shape (n_samples, ..., n_features)
            On the host or on the model's device.
        """
        prepared = self._current()
        if prepared.takes(X):
            result: Array = prepared.kernel(X)
            return result
        return self._in_batches(X, prepared.output, self.batch_size)

    def now(self, X: Any, batch_size: int) -> Array:
        """Compute the output by the weights as they are now, even if numbers were written into their arrays."""
        if batch_size != self.batch_size:
            integer("batch_size", batch_size, 1)
        prepared = self._checked()
        if prepared.takes(X):
            result: Array = prepared.kernel.now(X)
            return result
        return self._in_batches(X, prepared.now, batch_size)

    def output(self) -> Output:
        """Return the function that computes the output for a batch on the device, by the weights as they are now."""
        return self._checked().now

    def _checked(self) -> _Prepared:
        prepared = self._current()
        if prepared.others_in_place():
            self._prepared = prepared = _Prepared(self.model)
        return prepared

    def _in_batches(self, X: Any, output: Output, batch_size: int) -> Array:
        backend = needs_built(self.model)
        with backend.scope():
            rows = model_input(self.model, X, backend, may_be_empty=True)
            batches = slices(len(rows), batch_size) if len(rows) else [slice(0, 0)]
            if rows.on_device:
                parts = [output(rows.take(chunk)) for chunk in batches]
                return parts[0] if len(parts) == 1 else backend.xp.concat(parts, axis=0)
            answer: Any = None
            for chunk in batches:
                part = backend.to_numpy(output(rows.take(chunk)))
                if len(part) == len(rows):
                    return part
                if answer is None:
                    answer = np.empty((len(rows), *part.shape[1:]), dtype=part.dtype)
                answer[chunk] = part
            return answer


class _Prepared:
    """The output of a model as a function for its present weights, and a test of whether they were replaced."""

    def __init__(self, model: Layer) -> None:
        backend = model.built()
        self.backend = backend
        leaves = [layer for layer in with_inner(model) if not layer.children]
        self.layers = [(layer, layer.params, getattr(layer, "activation", None)) for layer in leaves]
        self._arrays = [list(params.values()) for _, params, _ in self.layers]
        with backend.scope():
            self.output = _output(model, backend)
        self.now = self.output.now if isinstance(self.output, _Stages) else self.output
        stages = self.output.stages if isinstance(self.output, _Stages) else []
        # if the whole model is one kernel
        self.kernel: Any = stages[0].kernel if len(stages) == 1 and isinstance(stages[0], _Affine) else None
        self._dtype, self._shape = getattr(self.kernel, "dtype", None), (getattr(self.kernel, "n_in", 0),)

    def takes(self, X: Any) -> bool:
        """Whether the one kernel takes X as it is; these tests are half of the time of one row in a small model."""
        return (
            type(X) is np.ndarray
            and X.dtype is self._dtype
            and X.ndim == 2
            and X.shape[1:] == self._shape
            and X.flags.c_contiguous
        )

    def others_in_place(self) -> bool:
        """Whether someone put another array into the dict of a layer."""
        return any(
            len(params) != len(arrays) or not all(map(operator.is_, params.values(), arrays))
            for (_, params, _), arrays in zip(self.layers, self._arrays, strict=True)
        )


# ------------------------------------------------------------------ one function for each kind of backend


def _output(model: Layer, backend: Backend) -> Output:
    if not is_pure(model):
        return lambda X: _passed(model, X)
    kernels: Any = kernels_for(backend.kernels) if backend.kernels else None
    if optional(kernels, "Panels"):
        return _Stages(list(_stages(model, kernels)))
    params = model.params

    def pure(params: Params, X: Array) -> Array:
        return model.forward(params, X)[0]

    if backend.compiles:
        function = compile_once(model, backend, "output", pure)
        return lambda X: _padded(lambda rows: function(params, rows), X, backend)
    if optional(kernels, "Recorder"):
        return _Recorded(lambda X: (pure(params, X),), kernels, backend.dtype("float32"))
    return lambda X: pure(params, X)


def _passed(model: Layer, X: Array) -> Array:
    if X.shape[0]:
        return model.forward_pass(X, training=False)
    return model.built().xp.empty((*X.shape[:-1], *model.output_shape()), dtype=X.dtype, device=model.built().device)


def _padded(output: Output, X: Array, backend: Backend) -> Array:
    """Return an output, computed for a power of two of rows: a function is traced once for each number of rows."""
    n = X.shape[0]
    more = (1 << max(n - 1, 0).bit_length()) - n
    if not more:
        return output(X)
    xp = backend.xp
    zeros = xp.zeros((more, *X.shape[1:]), dtype=X.dtype, device=backend.device)
    return output(xp.concat([X, zeros], axis=0))[:n, ...]


class _Recorded:
    """Launches a recorded graph for shapes that come often; while one call does so, others compute as usual."""

    def __init__(self, function: Callable[[Array], tuple[Array]], kernels: Any, dtype: Any) -> None:
        self.function, self.product, self.recorder = function, kernels.product, kernels.Recorder(1, dtype)
        self._free = threading.Lock()

    def __call__(self, X: Array) -> Array:
        if not X.shape[0] or not self._free.acquire(blocking=False):
            return self.function(X)[0]
        try:
            with taken_by(self.product):
                result: Array = self.recorder(self.function, (X,), [0.0])[0]
            return result
        finally:
            self._free.release()


# ------------------------------------------------------------------ on the host


class _Stages:
    """Functions through which a batch passes, one after the other."""

    def __init__(self, stages: list[Any]) -> None:
        self.stages = stages

    def __call__(self, X: Array) -> Array:
        for stage in self.stages:
            X = stage(X)
        return X

    def now(self, X: Array) -> Array:
        for stage in self.stages:
            X = stage.now(X) if isinstance(stage, _Affine) else stage(X)
        return X


class _Affine:
    """Dense layers in a row: one kernel, for rows of any number of axes."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __call__(self, X: Array) -> Array:
        return self._shaped(self.kernel(np.ascontiguousarray(rows_of(X))), X)

    def now(self, X: Array) -> Array:
        return self._shaped(self.kernel.now(np.ascontiguousarray(rows_of(X))), X)

    def _shaped(self, Y: Array, X: Array) -> Array:
        return Y if X.ndim == 2 else Y.reshape(*X.shape[:-1], Y.shape[-1])


def _stages(model: Layer, kernels: Any) -> Iterator[Any]:
    row: list[tuple[Array, Array | None, bool]] = []
    for layer in _in_order(model):
        # a subclass may compute something else: its pure function is called
        if type(layer) is Dense and layer.dtype == model.dtype in ("float32", "float64"):
            rectified = type(layer.activation) is ReLU
            row.append((layer.params["W"], layer.params.get("w0"), rectified))
            if rectified or layer.activation is None:
                continue
            layer = layer.activation
        elif type(layer) is Dropout:
            continue
        if row:
            yield _Affine(kernels.Panels(row))
            row = []
        if type(layer) is QuantizedDense and optional(kernels, "int8_product"):
            yield _quantized(layer, kernels.int8_product)
        else:
            yield _pure(layer)
    if row:
        yield _Affine(kernels.Panels(row))


def _pure(layer: Layer) -> Output:
    return lambda X: layer.forward(layer.params, X)[0]


def _quantized(layer: QuantizedDense, product: Callable[..., None]) -> Output:
    def output(X: Array) -> Array:
        rows = widened(rows_of(X))
        if not 0 < len(rows) <= FEW:
            return layer.forward(layer.params, X)[0]
        out = np.empty((len(rows), layer.n_units), dtype=rows.dtype)
        product(rows, layer.params["W"], out)
        return layer.after_product(layer.params, X, out, training=False)[0]

    return output


def _in_order(model: Layer) -> Iterator[Layer]:
    if isinstance(model, Chain) and type(model).forward is Chain.forward:
        for inner in model.children.values():
            yield from _in_order(inner)
    else:
        yield model
