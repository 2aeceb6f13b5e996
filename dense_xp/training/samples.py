"""Data to learn from: inputs, targets and weights of the same samples, checked once and handed out in batches.

Data on the host are copied to the device batch by batch; data on the model's device are gathered there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dense_xp.backend import Array, Backend, backend_of, get_backend, to_numpy
from dense_xp.backend.lookup import real_numbers
from dense_xp.kernels import lane_for
from dense_xp.layers.layer import Layer
from dense_xp.learning.losses import Loss, MeanSquaredError, SoftmaxCrossEntropy
from dense_xp.learning.metric import Measure, Metric
from dense_xp.learning.named_losses import LOSSES
from dense_xp.learning.special import counted
from dense_xp.support.dtypes import wide
from dense_xp.support.seeds import Rng
from dense_xp.training.feeding import Feeder


class Rows:
    """A data set, on the host or on the device, that hands out rows on the device.

    The rows have the model's dtype, but targets that are not floating-point numbers, labels, keep theirs.
    """

    def __init__(self, data: Any, backend: Backend, dtype: str, what: str) -> None:
        owner = None if isinstance(data, np.ndarray) else backend_of(data)  # a call takes a tenth of a small predict
        if owner is not None and owner != backend and owner.name != "numpy":
            backend.accept(data, None, what)  # raises: it names both sides and the remedy
        self.backend, self.dtype, self.what = backend, dtype, what
        self.on_device = owner == backend and backend.name != "numpy"
        self.data: Any = backend.library.plain(data) if self.on_device else real_numbers(data, what)
        if not self.on_device:
            self._settle()
        if self.data.ndim == 0:
            raise ValueError(f"{what} is a single number; it needs a first axis, the samples")

    def _settle(self) -> None:
        """Choose the dtype for rows of host data; None for labels, which keep theirs."""
        self.wanted = None if self.what == "y" and self.data.dtype.kind != "f" else self.dtype
        # then batches need no conversion: two microseconds where the whole step takes thirty
        self.ready = self.backend.name == "numpy" and self.wanted in (None, self.data.dtype.name)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the data."""
        return tuple(self.data.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, rows: np.ndarray[Any, Any] | slice) -> np.ndarray[Any, Any]:
        """Return rows that lie on the host."""
        chosen: np.ndarray[Any, Any] = self.data[rows] if isinstance(rows, slice) else self.data.take(rows, axis=0)
        return chosen

    def take(self, rows: np.ndarray[Any, Any] | slice) -> Array:
        """Return rows on the device."""
        if not self.on_device:
            chosen = self.read(rows)
            return chosen if self.ready else self.backend.asarray(chosen, self.wanted)
        if isinstance(rows, slice):
            chosen = self.data[rows, ...]
        else:
            chosen = self.backend.xp.take(self.data, self.backend.asarray(rows), axis=0)
        if self.what == "y" and not self.backend.xp.isdtype(chosen.dtype, "real floating"):
            return chosen
        return self.backend.cast(chosen, self.backend.dtype(self.dtype), self.what)

    def travel_dtype(self) -> Any:
        """Return the dtype in which rows of host data are copied; None for bfloat16 and for data on the device."""
        if self.on_device or self.dtype == "bfloat16":
            return None
        return self.data.dtype if self.wanted is None else np.dtype(self.wanted)

    def gather(self, rows: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> None:
        """Write rows of host data into host memory."""
        if self.data.dtype == out.dtype:
            np.take(self.data, rows, axis=0, out=out, mode="clip")  # any other mode makes a copy in between
        else:
            out[...] = self.read(rows)

    def check_finite(self) -> None:
        """Raise with the place of the first number that is NaN or infinite, or becomes so in the model's dtype."""
        xp, labels = self.backend.xp, self.what == "y"
        narrow = np.dtype("float32" if self.dtype == "bfloat16" else self.dtype)
        if self.on_device:
            floating = xp.isdtype(self.data.dtype, "real floating")
            in_use = self.backend.cast(self.data, self.backend.dtype(self.dtype), self.what) if floating else None
            if (labels and not floating) or (in_use is not None and bool(xp.all(xp.isfinite(in_use)))):
                return
        block = max(1, 2**20 // max(1, math.prod(self.shape[1:])))
        for chunk in slices(len(self), block):
            host = to_numpy(self.data[chunk, ...]) if self.on_device else self.read(chunk)
            if host.dtype.kind != "f" and (labels or narrow.itemsize > 2):
                return  # whole numbers, which every other dtype can hold
            with np.errstate(over="ignore"):
                good = np.isfinite(host if host.dtype == narrow else host.astype(narrow))
            if not good.all():
                first = np.argwhere(~good)[0]
                value = host[tuple(first)]
                index = ", ".join(str(i) for i in (chunk.start + first[0], *first[1:]))
                remedy = (
                    f"{self.dtype} cannot hold it. Scale the data, for example to mean 0 and variance 1, or take a "
                    "wider dtype"
                    if np.isfinite(value)
                    else "training needs finite numbers; drop or fill such samples first (for example with "
                    "numpy.nan_to_num)"
                )
                raise ValueError(f"{self.what}[{index}] is {value}: {remedy}")


class SparseRows(Rows):
    """Rows of one of SciPy's sparse matrices, made dense batch by batch."""

    def __init__(self, data: Any, backend: Backend, dtype: str, what: str) -> None:
        self.backend, self.dtype, self.what = backend, dtype, what
        self.on_device, self.data = False, data.tocsr()
        self._settle()

    def read(self, rows: np.ndarray[Any, Any] | slice) -> np.ndarray[Any, Any]:
        """Return rows as a dense array."""
        return real_numbers(self.data[rows].toarray(), self.what)

    def gather(self, rows: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> None:
        """Write rows into host memory."""
        out[...] = self.read(rows)

    def check_finite(self) -> None:
        """Raise with the place of the first number that is not finite."""
        with np.errstate(over="ignore"):
            stored = self.data.data.astype("float32" if self.dtype == "bfloat16" else self.dtype)
        if not np.isfinite(stored).all():
            super().check_finite()


def model_input(model: Layer, X: Any, backend: Backend, may_be_empty: bool = False) -> Rows:
    """Return the inputs of a model, or raise if their shape does not fit."""
    rows = (SparseRows if hasattr(X, "tocsr") else Rows)(X, backend, model.dtype, "X")
    if len(rows.shape) < 2 or (model.input_shape is not None and rows.shape[-1:] != model.input_shape):
        wanted = "n_features" if model.input_shape is None else model.input_shape[0]
        raise ValueError(f"X has shape {rows.shape} and {model.layer_name()} expects (n_samples, ..., {wanted})")
    if not len(rows) and not may_be_empty:
        raise ValueError(f"X has shape {rows.shape}: there are no samples")
    return rows


class Measuring:
    """The loss and the metrics over batches, as numbers on the host."""

    backend: Backend

    def weights(self, batches: Sequence[Any]) -> tuple[list[float], list[float]]:
        """Return the weight of each batch in the average over all: for the loss, and for the metrics.

        Parameters
        ----------
        batches : sequence
            What :meth:`Samples.epoch` yields with each batch: the indices of its rows, for arrays.
        """
        raise NotImplementedError

    def measured(
        self, values: Sequence[tuple[Array, ...]], batches: Sequence[Any], metrics: Mapping[str, Measure]
    ) -> dict[str, float]:
        """Return the loss and the metrics over batches.

        Parameters
        ----------
        values : sequence of tuple of array
            The loss of each batch, and the statistics of the metrics.
        batches : sequence
            As in :meth:`weights`.
        metrics : mapping of str to Measure
            What is measured beside the loss.
        """
        return summary(on_host(self.backend, values, metrics), self.weights(batches), metrics)

    def losses(self, values: Sequence[tuple[Array, ...]]) -> np.ndarray[Any, Any]:
        """Return the loss of each batch; `values` as in :meth:`measured`."""
        return self.backend.scalars([value[0] for value in values])


class Samples(Measuring):
    """Inputs, targets and weights of the same samples, checked once."""

    def __init__(
        self, model: Layer, X: Any, y: Any, weight: Any, loss: Any, weight_exponent: int | None = None
    ) -> None:
        backend = model.backend
        assert backend is not None
        self.backend = backend
        self._fed: tuple[int, Feeder | None] | None = None
        self.X = model_input(model, X, backend)
        # the loss is computed in float32 at least, and its targets keep their digits
        dtype = wide(model.dtype)
        self.y = Rows(y, backend, dtype, "y")
        outputs = model.output_shape()
        leading = self.X.shape[:-1]
        if len(self.y) != len(self.X):
            raise ValueError(f"X has {len(self.X)} samples and y has {len(self.y)}: they must be the same")
        self.loss = _loss_for(loss, self.y, outputs)
        one_number_each = self.y.shape == leading and outputs == (self.loss.outputs_per_target,)
        if one_number_each and not self.loss.takes_labels:
            self.y.data = self.y.data[..., None]
        self.X.check_finite()
        self.y.check_finite()
        self.loss.check_target(self.y.data, (*leading[1:], *outputs))
        self.weight: Rows | None = None
        self._host_weight = None  # so that sums do not wait for the device
        if weight is not None:
            given = Rows(weight, backend, "float64", "sample_weight")
            self._host_weight = _ratios(given, leading, weight_exponent)
            there = backend.asarray(self._host_weight, dtype) if given.on_device else self._host_weight
            self.weight = Rows(there, backend, dtype, "sample_weight")
        self._loss_weight = self._host_weight
        if type(self.loss).sample_weights is not Loss.sample_weights:
            own = self.loss.sample_weights(to_numpy(self.y.data), len(leading) + 1)
            if own is not None:
                self._loss_weight = own if self._host_weight is None else own * self._host_weight

    def __len__(self) -> int:
        return len(self.X)

    @property
    def facts(self) -> dict[str, Any]:
        """What must be equal on all ranks."""
        return {"X": self.X.shape, "y": self.y.shape}

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of the inputs of one sample."""
        return self.X.shape[1:]

    def count(self, batch_size: int) -> int:
        """Return how many batches an epoch has."""
        return -(-len(self) // batch_size)

    def largest(self, batch_size: int) -> int:
        """Return how many samples the largest batch has."""
        return min(batch_size, len(self))

    def epoch(self, batch_size: int, rng: Rng, shuffle: bool) -> Iterator[tuple[Any, tuple[Array, Array, Any]]]:
        """Return an iterator over indices and rows, for one epoch."""
        n = len(self)
        return self.batches(rng.permutation(n) if shuffle else np.arange(n), batch_size)

    def in_order(self, batch_size: int) -> Iterator[tuple[slice, tuple[Array, Array, Any]]]:
        """Return an iterator over indices and rows, in the order of the data."""
        return ((rows, self.take(rows)) for rows in slices(len(self), batch_size))

    def take(self, rows: np.ndarray[Any, Any] | slice) -> tuple[Array, Array, Array | None]:
        """Return inputs, targets and weights of some samples, on the device."""
        return self.X.take(rows), self.y.take(rows), None if self.weight is None else self.weight.take(rows)

    def as_one_batch(self) -> Iterator[tuple[Any, tuple[Array, Array, Any]]]:
        """Yield all indices and rows at once, as copies: a stream may use the memory of its batches again."""
        yield slice(0, len(self)), self.take(np.arange(len(self)))

    def batches(self, order: np.ndarray[Any, Any], batch_size: int) -> Iterator[tuple[Any, tuple[Array, Array, Any]]]:
        """Yield indices and rows, batch by batch; host data are copied while the step before computes."""
        return self.gathered([order[start : start + batch_size] for start in range(0, len(order), batch_size)])

    def gathered(self, chunks: Sequence[np.ndarray[Any, Any]]) -> Iterator[tuple[Any, tuple[Array, Array, Any]]]:
        """Yield, as :meth:`batches`, the rows with these indices."""
        backend, parts = self.X.backend, (self.X, self.y, self.weight)
        travelling = [part for part in parts if part is not None and part.travel_dtype() is not None]
        feeder = self._feeder(travelling, max(map(len, chunks))) if travelling else None
        # the order is copied once, and sliced there; where a library compiles, each slice would be a copy
        here = any(part is not None and part.on_device for part in parts) and not backend.compiles
        order = np.concatenate(chunks) if here else None
        order_there, start = order if order is None else backend.asarray(order), 0
        for i, fed in enumerate(feeder.batches(chunks) if feeder else [()] * len(chunks)):
            arrived, rows = iter(fed), chunks[i]
            there = rows if order_there is None else order_there[start : start + len(rows)]
            start += len(rows)
            X, y, weight = (
                None if part is None
                else next(arrived) if feeder and part in travelling
                else part.take(there if part.on_device else rows)
                for part in parts
            )  # fmt: skip
            yield rows, (X, y, weight)

    def _feeder(self, travelling: list[Rows], batch_size: int) -> Feeder | None:
        if self._fed is None or self._fed[0] != batch_size:
            backend = self.X.backend
            lane = lane_for(backend.kernels, backend.device)
            dtypes = [part.travel_dtype() for part in travelling]
            feeder = None if lane is None else Feeder(lane, travelling, dtypes, batch_size)
            self._fed = batch_size, feeder
        return self._fed[1]

    def counted(self, batches: Sequence[Any]) -> int:
        """Return how many samples there are in batches."""
        return sum(map(n_rows, batches))

    def weights(self, batches: Sequence[Any]) -> tuple[list[float], list[float]]:
        """Return the weight of each batch; see :meth:`Measuring.weights`."""
        measured = _sums(self._host_weight, batches)
        own = self._loss_weight is not self._host_weight
        return _sums(self._loss_weight, batches) if own else measured, measured


def on_host(
    backend: Backend, values: Sequence[tuple[Array, ...]], metrics: Mapping[str, Measure]
) -> list[np.ndarray[Any, Any]]:
    """Bring the losses and the statistics of each metric to the host, in one transfer each."""
    kinds, columns = [None, *metrics.values()], zip(*values, strict=True)
    return [
        backend.joined(column) if isinstance(kind, Metric) else backend.scalars(column)
        for kind, column in zip(kinds, columns, strict=True)
    ]


def summary(
    columns: Sequence[np.ndarray[Any, Any]], weights: tuple[list[float], list[float]], metrics: Mapping[str, Measure]
) -> dict[str, float]:
    """Return the loss and the metrics over all batches.

    A :class:`Metric` is computed from its statistics of all batches; anything else is averaged over the batches with
    the weights of :meth:`Samples.weights`.
    """
    measured: dict[str, float] = {}
    for (name, metric), column in zip({"loss": None, **metrics}.items(), columns, strict=True):
        if isinstance(metric, Metric):
            value = np.asarray(metric.value(column), np.float64)
            measured |= {f"{name}_{i}": float(x) for i, x in enumerate(value)} if value.ndim else {name: float(value)}
        else:
            sizes = weights[metric is not None]
            measured[name] = float(counted(np.asarray(sizes), column).sum()) / (sum(sizes) or 1.0)
    return measured


def n_rows(rows: np.ndarray[Any, Any] | slice) -> int:
    """Return how many rows there are, given their indices."""
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def _sums(weight: np.ndarray[Any, Any] | None, batches: Sequence[Any]) -> list[float]:
    if weight is None:
        return [float(n_rows(rows)) for rows in batches]
    return [float(np.sum(weight[rows], dtype=np.float64)) for rows in batches]


def _ratios(given: Rows, shape: tuple[int, ...], exponent: int | None) -> np.ndarray[Any, Any]:
    """Return weights on the host, times a power of 2 that brings the largest between 1 and 2: no dtype overflows.

    For a part of the data, `exponent` gives the power that all parts have in common.
    """
    if given.shape != shape:
        raise ValueError(f"sample_weight has shape {given.shape} and needs {shape}")
    weight = to_numpy(given.data).astype(np.float64)
    Rows(weight, get_backend("numpy"), "float64", given.what).check_finite()
    if (weight < 0).any() or not (weight.any() or exponent is not None):
        raise ValueError("sample_weight must not be negative, nor zero for every sample")
    ratios: np.ndarray[Any, Any] = np.ldexp(
        weight, 1 - int(np.frexp(weight.max())[1]) if exponent is None else exponent
    )
    return ratios  # a power of two changes no digit


def _loss_for(spec: Any, y: Rows, outputs: tuple[int, ...]) -> Loss:
    if spec is not None:
        return LOSSES.made(spec)
    labels = y.backend.xp.isdtype(y.data.dtype, "integral") if y.on_device else y.data.dtype.kind in "iu"
    return SoftmaxCrossEntropy() if labels and outputs[-1] > 1 else MeanSquaredError()


def slices(n: int, batch_size: int) -> Iterator[slice]:
    """Yield slices that cover n rows in order."""
    return (slice(start, min(start + batch_size, n)) for start in range(0, n, batch_size))
