"""Prediction and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dense_xp.backend import Array
from dense_xp.backend.blocks import as_array, is_chunked, sent_once
from dense_xp.layers.activations import Sigmoid, Softmax
from dense_xp.layers.dropout import Dropout
from dense_xp.layers.layer import Layer
from dense_xp.learning.losses import Loss
from dense_xp.learning.metric import Measure, MetricLike, in_step
from dense_xp.learning.metrics import named_metrics, suited
from dense_xp.support.dtypes import widened
from dense_xp.training.predictor import Predictor, needs_built
from dense_xp.training.samples import Samples
from dense_xp.training.streamed import StreamedSamples, hosted, samples_of
from dense_xp.training.streams import as_stream, is_stream, stream_of


def predictor(model: Layer, batch_size: int = 1024) -> Predictor:
    """Return a callable that computes the output for data: fast for many calls with few samples each.

    Parameters
    ----------
    model, batch_size
        An initialized model; and how many samples are on the device at a time.

    Returns
    -------
    Predictor
        Called with `X`, as :meth:`predict`.
    """
    return Predictor(model, batch_size)


def _own_predictor(model: Layer) -> Predictor:
    """Return the predictor that a model keeps for :func:`predict`."""
    own: Predictor | None = model.compiled.get("predictor")
    if own is None:
        own = model.compiled["predictor"] = Predictor(model)
    return own


def score(
    model: Layer, samples: Samples | StreamedSamples, metrics: Mapping[str, Measure], batch_size: int
) -> dict[str, float]:
    """Return the loss and the metrics of a model on samples."""
    output, statistics = _own_predictor(model).output(), in_step(metrics)
    values, batches = [], list[Any]()
    for rows, (X, y, weight) in samples.in_order(batch_size):
        Y = widened(output(X))
        values.append((samples.loss(Y, y, weight), *(metric(Y, y, weight) for metric in statistics)))
        batches.append(rows)
    means = samples.measured(values, batches, metrics)
    penalty = model.penalty(model.params)
    if penalty is not None:  # the same for all batches
        means["loss"] += float(model.built().scalars([penalty])[0])
    return means


def gives_probabilities(model: Layer) -> bool:
    """Whether a model ends in a sigmoid or a softmax, and so does not give logits."""
    last: Any = model
    while inner := [layer for layer in last.children.values() if not isinstance(layer, Dropout)]:
        last = inner[-1]
    return isinstance(getattr(last, "activation", None) or last, Sigmoid | Softmax)


def predict(model: Layer, X: Any, *, batch_size: int = 1024) -> Array:
    """Compute the output for data, batch by batch.

    Parameters
    ----------
    model : Layer
        Initialized.
    X : array, shape (n_samples, ..., n_features)
        On the host or on the model's device; a sparse matrix of SciPy; or a dask array or data frame, which may be
        larger than memory. Or a stream as for :meth:`fit`, whose batches may be `X` alone.
    batch_size : int, default 1024
        How many samples are on the device at a time.

    Returns
    -------
    array
        Of the same kind as `X`: NumPy for host data, on the device for device data. For a dask array it
        is one too, and each block is computed when it is asked for. For a stream, the outputs of all its batches.
    """
    if type(X) is not np.ndarray:
        if is_chunked(X):
            return _predicted_by_blocks(model, as_array(X), batch_size)
        if is_stream(X):
            return _predicted_by_batches(model, X, batch_size)
    return _own_predictor(model).now(X, batch_size)


def _predicted_by_blocks(model: Layer, X: Any, batch_size: int) -> Any:
    """Return the outputs for a dask array as another one: each block is computed when it is asked for."""
    if X.ndim < 2 or (model.input_shape is not None and X.shape[-1:] != model.input_shape):
        raise ValueError(f"X has shape {X.shape} and {model.layer_name()} expects (n_samples, ..., n_features)")
    needs_built(model)
    whole_samples = X.rechunk({X.ndim - 1: -1})
    return whole_samples.map_blocks(
        _predicted_block,
        model=sent_once(model),
        batch_size=batch_size,
        chunks=(*whole_samples.chunks[:-1], model.output_shape()),
        dtype=model.dtype,
        meta=np.empty((0,) * X.ndim, dtype=model.dtype),
    )


def _predicted_block(block: Any, *, model: Layer, batch_size: int) -> Array:
    return predict(model, block, batch_size=batch_size)


def _predicted_by_batches(model: Layer, X: Any, batch_size: int) -> Array:
    backend, stream = needs_built(model), as_stream(X)
    outputs = [
        predict(model, hosted(part.X, backend), batch_size=batch_size) for part in stream.parts(batch_size, None)
    ]
    if isinstance(outputs[0], np.ndarray):
        return np.concatenate(outputs)
    with backend.scope():
        return backend.xp.concat(outputs, axis=0)


def evaluate(
    model: Layer,
    X: Any,
    y: Any = None,
    *,
    loss: str | Loss | None = None,
    metrics: Sequence[MetricLike] = (),
    sample_weight: Any = None,
    batch_size: int = 1024,
) -> dict[str, float]:
    """Measure loss and metrics on data, without learning from them.

    Parameters
    ----------
    model : Layer
        Initialized.
    X, y, loss, metrics, sample_weight
        As in :meth:`fit`, a stream too.
    batch_size : int, default 1024
        How many samples are on the device at a time.

    Returns
    -------
    dict of str to float
        ``"loss"``, with the penalties of :meth:`Layer.regularized` in it, and each metric; one with a value for each
        class as ``"f1_0"``, ``"f1_1"`` ….
    """
    backend = needs_built(model)
    with backend.scope():
        samples = samples_of(model, stream_of(X, y, sample_weight), (X, y, sample_weight), loss)
        return score(model, samples, suited(named_metrics(metrics), gives_probabilities(model)), batch_size)
