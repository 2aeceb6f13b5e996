"""Learning from data: batches, the compiled step, the epoch loop, its history and its callbacks.

A step is one pure function of arrays: forward, loss, backward, clipping, update. It is compiled once and
fed with batches. Data may lie on the host (they travel batch by batch) or on the layer's device (they are
gathered there). The losses stay on the device until the epoch ends.
"""

from __future__ import annotations

import contextlib
import math
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from array_api_compat import array_namespace

from dense_xp import loss_scaling
from dense_xp.backend import (
    Array,
    Backend,
    backend_of,
    resolve,
    to_numpy,
    use_backend,
)
from dense_xp.feeding import Feeder
from dense_xp.fused import FusedStep
from dense_xp.layer import Layer, Params, Rng, apply_gradients, as_rng, flatten, is_pure, merged, place
from dense_xp.losses import Loss, MeanSquaredError, SoftmaxCrossEntropy, get_loss
from dense_xp.metrics import Measure, Metric, MetricLike, Statistics, in_step, named_metrics
from dense_xp.optimizers import ForeignOptimizer, Optimizer
from dense_xp.special import in_dtype, widened


class DivergenceError(ArithmeticError):
    """The loss became infinite or NaN.

    Attributes
    ----------
    epoch, batch : int
        Where, counted from 1.
    history : History
        Everything up to the last good epoch, whose weights the model has again.
    """

    def __init__(self, message: str, epoch: int, batch: int, history: History) -> None:
        super().__init__(message)
        self.epoch, self.batch, self.history = epoch, batch, history


@dataclass
class History(Mapping[str, list[float]]):
    """What each epoch of :meth:`Sequential.fit` measured, as Python numbers: ``history["loss"][-1]``.

    Attributes
    ----------
    metrics : dict of str to list of float
        One number an epoch: ``"loss"``, each metric, and the same with ``"val_"`` for the validation data.
    seconds : float
        How long the training took.
    samples : int
        How many samples were learned from, over all epochs.
    stopped : str
        Why training ended before its last epoch; empty if it did not.
    best_epoch : int or None
        The epoch (from 1) whose weights early stopping brought back.
    unrecorded : str
        Why the steps were not replayed as one recorded CUDA graph; empty if they were, or if the library has none.
    """

    metrics: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    samples: int = 0
    stopped: str = ""
    best_epoch: int | None = None
    unrecorded: str = ""

    def __getitem__(self, name: str) -> list[float]:
        return self.metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    @property
    def epochs(self) -> int:
        """How many epochs were completed."""
        return len(self.metrics.get("loss", ()))

    def record(self, values: Mapping[str, float]) -> None:
        """Append one epoch.

        Parameters
        ----------
        values : mapping of str to float
            What it measured, by name.
        """
        for name, value in values.items():
            self.metrics.setdefault(name, []).append(float(value))


@dataclass
class Run:
    """One call of :meth:`Sequential.fit`, as callbacks see it.

    Attributes
    ----------
    model : Layer
        What is being trained; its weights are those of the last step.
    history : History
        What was measured so far.
    epochs : int
        How many epochs were asked for.
    learning_rate : float or None
        That of the last step; None before the first, and where the optimizer keeps it to itself.
    """

    model: Layer
    history: History
    epochs: int
    learning_rate: float | None = None

    @property
    def epoch(self) -> int:
        """The last completed epoch, from 1; 0 before the first."""
        return self.history.epochs

    @property
    def measured(self) -> dict[str, float]:
        """What the last epoch measured."""
        return {name: column[-1] for name, column in self.history.items() if len(column) == self.epoch > 0}

    def scale_learning_rate(self, factor: float) -> None:
        """Go on with the learning rate times a factor, or with the schedule times it.

        The model, and each layer in it, gets a copy of its optimizer with that rate, and keeps what it
        remembers of the gradients. The optimizer that was passed in stays as it is.

        Parameters
        ----------
        factor : float
            Not negative.

        Raises
        ------
        TypeError
            If the optimizer is an object of your own, which alone knows its rate.
        """
        if isinstance(self.model.optimizer, ForeignOptimizer):
            raise TypeError(
                f"the learning rate of {self.model.optimizer.optimizer!r} cannot be changed from here: change it "
                "in a callback of your own, or use an optimizer of dense_xp"
            )
        if factor == 1.0:
            return
        copies: dict[int, Optimizer] = {}
        for layer in _with_inner(self.model):
            # a layer that writes the stateful methods keeps its optimizers under names of its own
            for name, value in list(vars(layer).items()):
                if isinstance(value, Optimizer):
                    setattr(layer, name, copies.setdefault(id(value), value.scaled(factor)))

    def stop(self, reason: str) -> None:
        """End the training after this epoch.

        Parameters
        ----------
        reason : str
            What the history says about it.
        """
        self.history.stopped = reason


@runtime_checkable
class Callback(Protocol):
    """What :meth:`Sequential.fit` calls: once before, after each epoch, and once at the end.

    A plain function of a :class:`Run` serves as well; it is called after each epoch.
    """

    def begin(self, run: Run) -> None:
        """Training starts.

        Parameters
        ----------
        run : Run
            What is being trained.
        """

    def epoch_end(self, run: Run) -> None:
        """Look at an epoch: it is in the history, and its weights are in the model.

        Parameters
        ----------
        run : Run
            What is being trained.
        """

    def end(self, run: Run) -> None:
        """Training has ended, for whatever reason.

        Parameters
        ----------
        run : Run
            What was trained.
        """


class Best:
    """The best value so far of a number in the history, for callbacks that watch one.

    Parameters
    ----------
    monitor : str
        Its name.
    mode : {"min", "max"}
        Whether small or large values are good.
    min_delta : float, default 0.0
        By how much a value must be better to count.

    Attributes
    ----------
    epoch : int
        The epoch that had it, from 1; 0 before there is one.

    Raises
    ------
    ValueError
        If `mode` is neither, or `min_delta` is negative.

    Examples
    --------
    >>> best = Best("val_loss", "min")
    >>> [best.beaten(value) for value in (3.0, 2.0, 2.5, float("nan"))], best.epoch
    ([True, True, False, False], 2)
    """

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max', and is {mode!r}")
        if not 0 <= min_delta < math.inf:
            raise ValueError(f"min_delta must not be negative, and is {min_delta!r}")
        self.monitor, self.min_delta, self._sign = monitor, min_delta, 1.0 if mode == "min" else -1.0
        self.epoch, self._seen, self._value = 0, 0, math.inf

    def beaten(self, value: float) -> bool:
        """Look at the value of one more epoch; return whether it is the best so far."""
        self._seen += 1
        if not self._sign * value < self._value - self.min_delta:
            return False
        self._value, self.epoch = self._sign * value, self._seen
        return True

    def begin(self, run: Run) -> list[float]:
        """Forget everything; return the values that the history has from before this training."""
        self.epoch, self._seen, self._value = 0, 0, math.inf
        return list(run.history.get(self.monitor, ()))

    def read(self, run: Run, who: object) -> float:
        """Return the value of the last epoch, or raise ValueError if there is none."""
        if self.monitor not in run.measured:
            hint = "; pass validation_data to fit" if self.monitor.startswith("val_") else ""
            raise ValueError(
                f"{type(who).__name__} watches {self.monitor!r}, and the history has only {list(run.measured)}{hint}"
            )
        return run.measured[self.monitor]


class EarlyStopping:
    """Stop when a measure no longer falls, and bring the best weights back.

    Parameters
    ----------
    monitor : str, default "val_loss"
        Name in the history.
    patience : int, default 5
        How many epochs in a row may pass without a new best.
    min_delta : float, default 0.0
        By how much it must improve to count.
    mode : {"min", "max"}, default "min"
        Whether small or large values are good.
    restore_best_weights : bool, default True
        Whether the model ends with the weights of its best epoch, also if it was never stopped.

    References
    ----------
    .. [1] L. Prechelt, "Early stopping — but when?", in *Neural Networks: Tricks of the Trade*,
       Springer 1998, pp. 55–69.

    Examples
    --------
    >>> EarlyStopping(patience=3).patience
    3
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        patience: int = 5,
        min_delta: float = 0.0,
        mode: str = "min",
        restore_best_weights: bool = True,
    ) -> None:
        if patience < 0:
            raise ValueError(f"patience must not be negative, and is {patience!r}")
        self.monitor, self.patience, self.min_delta = monitor, patience, min_delta
        self.mode, self.restore_best_weights = mode, restore_best_weights
        self._best = Best(monitor, mode, min_delta)
        self._weights: Params = {}

    def begin(self, run: Run) -> None:
        """Forget an earlier training, but for what is in the history; its weights are not there."""
        self._weights = {}
        for value in self._best.begin(run):
            self._best.beaten(value)

    def epoch_end(self, run: Run) -> None:
        """Look at the last epoch, and keep its weights if it is the best so far."""
        best = self._best
        if best.beaten(best.read(run, self)):
            if self.restore_best_weights:
                self._weights = _copies(run.model.params)
        elif run.epoch - best.epoch > self.patience:
            run.stop(f"{self.monitor} has not improved for {self.patience + 1} epochs (best: epoch {best.epoch})")

    def end(self, run: Run) -> None:
        """Give the model its best weights back."""
        if self._weights:
            run.model.params = self._weights
            run.history.best_epoch = self._best.epoch
        self._weights = {}


# ------------------------------------------------------------------------------------- data


class _Rows:
    """A data set, on the host or on the device, that hands out rows on the device.

    They have the model's dtype, but targets that are no floating-point numbers stay what they are: labels.
    """

    def __init__(self, data: Any, backend: Backend, dtype: str, what: str) -> None:
        owner = backend_of(data)
        if owner is not None and owner != backend and owner.name != "numpy":
            backend.accept(data, None, what)  # raises: it names both sides and the remedy
        self.backend, self.dtype, self.what = backend, dtype, what
        self.on_device = owner == backend and backend.name != "numpy"
        self.data: Any = data if self.on_device else backend.read(data, what)
        if not self.on_device:
            self._settle()
        if self.data.ndim == 0:
            raise ValueError(f"{what} is a single number; it needs a first axis, the samples")

    def _settle(self) -> None:
        """Settle, for data on the host, which dtype the rows are given; None if labels stay what they are."""
        self.wanted = None if self.what == "y" and self.data.dtype.kind != "f" else self.dtype
        # then a batch need not be looked at any more: two microseconds where the whole step takes thirty
        self.ready = self.backend.name == "numpy" and self.wanted in (None, self.data.dtype.name)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, rows: np.ndarray[Any, Any] | slice) -> np.ndarray[Any, Any]:
        """Return rows that lie on the host."""
        chosen: np.ndarray[Any, Any] = self.data[rows] if isinstance(rows, slice) else self.data.take(rows, axis=0)
        return chosen

    def take(self, rows: np.ndarray[Any, Any] | slice) -> Array:
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

    def way(self) -> Any:
        """Return the dtype in which the rows of host data travel; None if that is not NumPy's, or they are there."""
        if self.on_device or self.dtype == "bfloat16":
            return None
        return self.data.dtype if self.wanted is None else np.dtype(self.wanted)

    def check_finite(self) -> None:
        """Raise with the place of the first NaN or infinity."""
        if self.on_device:
            xp = self.backend.xp
            if not xp.isdtype(self.data.dtype, "real floating") or bool(xp.all(xp.isfinite(self.data))):
                return
        block = max(1, 2**20 // max(1, math.prod(self.shape[1:])))
        for chunk in _slices(len(self), block):
            host = to_numpy(self.data[chunk, ...]) if self.on_device else self.read(chunk)
            if host.dtype.kind == "f" and not (good := np.isfinite(host)).all():
                first = np.argwhere(~good)[0]
                value = host[tuple(first)]
                index = ", ".join(str(i) for i in (chunk.start + first[0], *first[1:]))
                raise ValueError(
                    f"{self.what}[{index}] is {value}: training needs finite numbers; "
                    "drop or fill such samples first (for example with numpy.nan_to_num)"
                )


class _SparseRows(_Rows):
    """Rows of one of SciPy's sparse matrices: those of one batch are made dense at a time."""

    def __init__(self, data: Any, backend: Backend, dtype: str, what: str) -> None:
        self.backend, self.dtype, self.what = backend, dtype, what
        self.on_device, self.data = False, data.tocsr()
        self._settle()

    def read(self, rows: np.ndarray[Any, Any] | slice) -> np.ndarray[Any, Any]:
        return self.backend.read(self.data[rows].toarray(), self.what)

    def check_finite(self) -> None:
        if self.data.dtype.kind == "f" and not np.isfinite(self.data.data).all():
            super().check_finite()


def _model_input(model: Layer, X: Any, backend: Backend) -> _Rows:
    rows = (_SparseRows if hasattr(X, "tocsr") else _Rows)(X, backend, model.dtype, "X")
    if len(rows.shape) < 2 or (model.input_shape is not None and rows.shape[-1:] != model.input_shape):
        wanted = "n_features" if model.input_shape is None else model.input_shape[0]
        raise ValueError(f"X has shape {rows.shape} and {model.layer_name()} expects (n_samples, ..., {wanted})")
    if not len(rows):
        raise ValueError(f"X has shape {rows.shape}: there are no samples")
    return rows


class _Samples:
    """Inputs, targets and weights of the same samples, checked once."""

    def __init__(self, model: Layer, X: Any, y: Any, weight: Any, loss: Any) -> None:
        backend = model.backend
        assert backend is not None
        self._fed: tuple[int, Feeder | None] | None = None
        self.X = _model_input(model, X, backend)
        self.y = _Rows(y, backend, model.dtype, "y")
        outputs = model.output_shape()
        leading = self.X.shape[:-1]
        if len(self.y) != len(self.X):
            raise ValueError(f"X has {len(self.X)} samples and y has {len(self.y)}: they must be the same")
        self.loss = _loss_for(loss, self.y, outputs)
        one_number_each = self.y.shape == leading and outputs == (1,)
        if one_number_each and not isinstance(self.loss, SoftmaxCrossEntropy):
            self.y.data = self.y.data[..., None]
        self.X.check_finite()
        self.y.check_finite()
        self.loss.check_target(self.y.data, (*leading[1:], *outputs))
        self.weight = None if weight is None else _Rows(weight, backend, model.dtype, "sample_weight")
        if self.weight is not None:
            if self.weight.shape != leading:
                raise ValueError(f"sample_weight has shape {self.weight.shape} and needs {leading}")
            self.weight.check_finite()
            host = to_numpy(self.weight.data)
            if (host < 0).any() or not host.any():
                raise ValueError("sample_weight must not be negative, nor zero for every sample")

    def __len__(self) -> int:
        return len(self.X)

    def take(self, rows: np.ndarray[Any, Any] | slice) -> tuple[Array, Array, Array | None]:
        return self.X.take(rows), self.y.take(rows), None if self.weight is None else self.weight.take(rows)

    def batches(self, order: np.ndarray[Any, Any], batch_size: int) -> Iterator[tuple[Any, tuple[Array, Array, Any]]]:
        """Yield row numbers and rows, batch by batch; host data travel while the batch before is worked on."""
        chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        parts = self.X, self.y, self.weight
        ways = [part is not None and part.way() for part in parts]
        if not any(ways) or (feeder := self._feeder(ways, min(batch_size, len(order)))) is None:
            for rows in chunks:
                yield rows, self.take(rows)
            return
        for rows, fed in zip(chunks, feeder.batches(chunks), strict=True):
            taken = [
                fed.pop(0) if way else None if part is None else part.take(rows)
                for part, way in zip(parts, ways, strict=True)
            ]
            yield rows, (taken[0], taken[1], taken[2])

    def _feeder(self, ways: list[Any], batch_size: int) -> Feeder | None:
        if self._fed is None or self._fed[0] != batch_size:
            lane = self.X.backend.lane()
            travelling = [
                part for part, way in zip((self.X, self.y, self.weight), ways, strict=True) if part is not None and way
            ]
            data, dtypes = [part.data for part in travelling], [part.way() for part in travelling]
            feeder = None if lane is None else Feeder(lane, data, dtypes, batch_size)
            self._fed = batch_size, feeder
        return self._fed[1]

    def size(self, rows: np.ndarray[Any, Any] | slice) -> float:
        """Return the weight of these rows in an average over the data set."""
        if self.weight is None:
            return float(len(rows) if not isinstance(rows, slice) else rows.stop - rows.start)
        return float(np.sum(to_numpy(self.weight.take(rows)), dtype=np.float64))


def _loss_for(spec: Any, y: _Rows, outputs: tuple[int, ...]) -> Loss:
    if spec is not None:
        return get_loss(spec)
    labels = y.backend.xp.isdtype(y.data.dtype, "integral") if y.on_device else y.data.dtype.kind in "iu"
    return SoftmaxCrossEntropy() if labels and outputs[-1] > 1 else MeanSquaredError()


# ------------------------------------------------------------------------------------- the step

LOSS_SCALE = "loss.scale"
"""Where the state of a step keeps that of the loss scaling; no layer's name has a dot."""

_compiled: weakref.WeakKeyDictionary[Layer, dict[Any, Callable[..., Any]]] = weakref.WeakKeyDictionary()


def _compile_once(
    model: Layer, backend: Backend, key: str, function: Callable[..., Any], donated: tuple[int, ...] = ()
) -> Callable[..., Any]:
    """Compile a function of this model; the same function for the same key, so that it is traced once."""
    cache = _compiled.setdefault(model, {})
    full = (backend.spec, key, repr(model.get_config()))
    if full not in cache:
        cache[full] = backend.compile(function, donated)
    return cache[full]


def train_step(model: Layer, loss: Loss, metrics: Sequence[Statistics] = ()) -> Callable[..., Any]:
    """Return one training step of a model as a pure function of arrays.

    Parameters
    ----------
    model : Layer
        An initialized model; its optimizer is the one that steps.
    loss : Loss
        What is minimised.
    metrics : sequence of callables
        Functions of (prediction, target, weight): means, or the statistics of a :class:`~dense_xp.metrics.Metric`.

    Returns
    -------
    callable
        ``step(params, state, X, y, weight, noise, learning_rate) -> (params, state, values)``, where
        ``values`` is the loss followed by the metrics. Beside the optimizer's, `state` may hold one of
        :mod:`dense_xp.loss_scaling`, under :data:`LOSS_SCALE`.
    """
    optimizer = model.optimizer
    assert optimizer is not None

    def step(
        params: Params, state: Params, X: Array, y: Array, weight: Any, noise: Any, learning_rate: Any
    ) -> tuple[Params, Params, tuple[Array, ...]]:
        Y, cache = model.forward(params, X, training=True, noise=noise)
        wide = widened(Y)
        value, grad = loss.value_and_grad(wide, y, weight)
        scale = state.get(LOSS_SCALE)
        if scale is not None:
            grad = grad * scale["factor"]
        grads = model.parameter_gradients(params, cache, in_dtype(grad, Y.dtype))
        if scale is not None:
            grads, finite = loss_scaling.unscaled(grads, scale)
        value, grads = _penalized(value, model.penalty(params)), model.with_penalty(params, grads)
        moved = apply_gradients(optimizer, params, optimizer.clip(grads), state, learning_rate)
        moved = model.allowed(moved[0]), moved[1]
        if scale is not None:
            moved = loss_scaling.chosen(finite, moved[0], params), loss_scaling.chosen(finite, moved[1], state)
            moved[1][LOSS_SCALE] = loss_scaling.advanced(scale, finite)
        params, state = moved
        if buffers := model.updated_buffers(cache):
            params = merged(params, buffers)
        return params, state, (value, *(_kept(metric(wide, y, weight)) for metric in metrics))

    return step


def _kept(statistics: Array) -> Array:
    """Return what a metric found, in memory of its own: that of the batch may be used again."""
    return array_namespace(statistics).asarray(statistics, copy=True)


def _penalized(value: Array, penalty: Array | None) -> Array:
    return value if penalty is None else value + in_dtype(penalty, value.dtype)


class _Packing:
    """Arrays in nested dicts as one list: at each call of a compiled step, each array and each dict costs time.

    Parameters
    ----------
    tree : dict
        What is to be packed.
    shared : tuple of str
        Names under which the same array stands everywhere; it is packed once.
    """

    def __init__(self, tree: Params, shared: tuple[str, ...] = ()) -> None:
        self.shared, self.size = shared, 0
        self.places = self._numbered(tree, {})

    def _numbered(self, tree: Params, seen: dict[str, int]) -> Params:
        places: Params = {}
        for key, value in tree.items():
            if isinstance(value, dict):
                places[key] = self._numbered(value, seen)
            elif key in seen:
                places[key] = seen[key]
            else:
                places[key] = self.size
                self.size += 1
                if key in self.shared:
                    seen[key] = places[key]
        return places

    def pack(self, tree: Params) -> list[Any]:
        arrays: list[Any] = [None] * self.size

        def put(places: Params, tree: Params) -> None:
            for key, at in places.items():
                if isinstance(at, dict):
                    put(at, tree[key])
                else:
                    arrays[at] = tree[key]

        put(self.places, tree)
        return arrays

    def unpack(self, arrays: Sequence[Any]) -> Params:
        def taken(places: Params) -> Params:
            return {key: taken(at) if isinstance(at, dict) else arrays[at] for key, at in places.items()}

        return taken(self.places)


def _common_counts(optimizer: Optimizer, backend: Backend, state: Params) -> tuple[str, ...]:
    """Return the counts of an optimizer if they are the same for all parameters: then one will do."""
    flat = flatten(state)
    counted = [value for key, value in flat.items() if key.rpartition(".")[2] in optimizer.counts]
    return optimizer.counts if counted and len(set(backend.scalars(counted).tolist())) == 1 else ()


class _CompiledStep:
    """Steps a pure model by one function of arrays; they are here while it trains, in the model after each epoch."""

    def __init__(self, model: Layer, loss: Loss, metrics: Mapping[str, Measure]) -> None:
        assert model.optimizer is not None
        assert model.backend is not None
        self.model, self.backend, self.optimizer = model, model.backend, model.optimizer
        self.compiles = self.optimizer.traceable and self.backend.compiles
        self.scales = model.dtype == "float16"
        state = self._with_scale(model.optimizer_state)
        shared = _common_counts(self.optimizer, self.backend, model.optimizer_state) if self.compiles else ()
        self.packing = packing = _Packing(model.params), _Packing(state, shared)
        self._take(model.params, state)
        self._rate: tuple[float, Any] = (math.nan, None)
        step = train_step(model, loss, in_step(metrics))

        def packed(params: list[Any], state: list[Any], *rest: Any) -> tuple[list[Any], list[Any], tuple[Array, ...]]:
            new_params, new_state, values = step(packing[0].unpack(params), packing[1].unpack(state), *rest)
            return packing[0].pack(new_params), packing[1].pack(new_state), values

        self.step = packed
        if self.optimizer.traceable:
            key = f"step {loss!r} {self.optimizer!r} {list(metrics.items())} {_trainable(model)} {packing[1].places}"
            self.step = _compile_once(model, self.backend, key, packed, (0, 1))  # parameters and state

    def _with_scale(self, state: Params) -> Params:
        if not self.scales:
            return state
        return {**state, LOSS_SCALE: loss_scaling.place(self.backend, self.model.loss_scale)}

    def _take(self, params: Params, state: Params) -> None:
        self.params, self.state = self.packing[0].pack(params), self.packing[1].pack(state)

    def __call__(self, X: Array, y: Array, weight: Any, rng: Rng) -> tuple[Array, ...]:
        noise = self.model.draw_noise(rng, tuple(X.shape))
        if noise is not None:
            noise = place(self.backend, noise)
        rate: Any = self.model._rate()
        if self.compiles:
            if rate != self._rate[0]:
                wide = "float64" if self.model.dtype == "float64" else "float32"
                self._rate = rate, self.backend.asarray(rate, wide)
            rate = self._rate[1]
        with np.errstate(over="ignore", invalid="ignore") if self.scales else contextlib.nullcontext():
            self.params, self.state, values = self.step(self.params, self.state, X, y, weight, noise, rate)
        self.model.steps += 1
        return tuple(values)

    def hand_over(self) -> None:
        params, state = (
            packing.unpack(arrays) for packing, arrays in zip(self.packing, (self.params, self.state), strict=True)
        )
        if self.scales:
            self.model.loss_scale = loss_scaling.read(self.backend, state.pop(LOSS_SCALE))
        self.model.params, self.model.optimizer_state = params, state

    def snapshot(self) -> tuple[Params, Params, int, tuple[float, float]]:
        model = self.model
        if self.compiles:  # the model keeps its arrays, and the steps use up copies
            self._take(_copies(model.params), self._with_scale(_copies(model.optimizer_state)))
        return model.params, model.optimizer_state, model.steps, model.loss_scale

    def restore(self, snapshot: tuple[Params, Params, int, tuple[float, float]]) -> None:
        self.model.steps, self.model.loss_scale = snapshot[2:]
        self._take(snapshot[0], self._with_scale(snapshot[1]))
        self.hand_over()


class _EagerStep:
    """Steps a model with layers that write the stateful methods alone: layer by layer."""

    def __init__(self, model: Layer, loss: Loss, metrics: Mapping[str, Measure]) -> None:
        assert model.optimizer is not None
        assert model.backend is not None
        if getattr(model.optimizer, "clip_norm", None) is not None:
            raise ValueError(
                "clip_norm needs all gradients at once, and a layer that writes only the stateful methods "
                "keeps its own to itself: use clip_value, or write forward and backward for that layer"
            )
        self.model, self.loss, self.metrics = model, loss, in_step(metrics)

    def __call__(self, X: Array, y: Array, weight: Any, rng: Rng) -> tuple[Array, ...]:
        Y = widened(self.model.forward_pass(X, training=True))
        value, grad = self.loss.value_and_grad(Y, y, weight)
        value = _penalized(value, self.model.penalty(self.model.params))
        self.model.backward_pass(grad)
        return value, *(_kept(metric(Y, y, weight)) for metric in self.metrics)

    def hand_over(self) -> None:
        """Do nothing: the layers have their arrays themselves."""

    def snapshot(self) -> Params:
        return _copies(self.model.params)

    def restore(self, snapshot: Params) -> None:
        # what a stateful layer keeps to itself cannot be brought back from here
        self.model.params = snapshot


_Step: TypeAlias = FusedStep | _CompiledStep | _EagerStep


def _copies(params: Params) -> Params:
    return {
        k: _copies(v) if isinstance(v, dict) else array_namespace(v).asarray(v, copy=True) for k, v in params.items()
    }


def _with_inner(model: Layer) -> Iterator[Layer]:
    yield model
    for layer in getattr(model, "layers", ()):
        yield from _with_inner(layer)


def _last_rate(model: Layer) -> float | None:
    """Return the learning rate of the last step, where the optimizer says it."""
    optimizer = model.optimizer
    if optimizer is None or isinstance(optimizer, ForeignOptimizer):
        return None
    # layers that are driven one by one count for themselves
    return optimizer.learning_rate_at(max(0, max(layer.steps for layer in _with_inner(model)) - 1))


def _trainable(model: Layer) -> Any:
    own = getattr(model, "layers", None)
    return model.trainable if own is None else (model.trainable, [_trainable(layer) for layer in own])


# ------------------------------------------------------------------------------------- the loop


def fit(
    model: Layer,
    X: Any,
    y: Any,
    *,
    epochs: int = 10,
    batch_size: int = 32,
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
    """Train a model on data; documented at :meth:`dense_xp.Sequential.fit`."""
    for name, number in (("epochs", epochs), ("batch_size", batch_size)):
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
            raise ValueError(f"{name} must be a positive integer, and is {number!r}")
    named = named_metrics(metrics)
    history = _continued(history, named, validation_data is not None)
    _prepare(model, X, optimizer)
    backend = model.backend
    assert backend is not None
    generator: Rng = as_rng(rng) if rng is not None else (model._rng or np.random)
    with backend.scope():
        samples = _Samples(model, X, y, sample_weight, loss)
        validation = None
        if validation_data is not None:
            validation = _Samples(model, *_three(validation_data), samples.loss)
        step = _stepper(model, samples, named, min(int(batch_size), len(samples)))
        run = Run(model, history, int(epochs))
        hooks = [hook if isinstance(hook, Callback) else _OnEpochEnd(hook) for hook in callbacks]
        return _loop(run, step, samples, validation, named, hooks, int(batch_size), shuffle, generator, verbose)


def _stepper(model: Layer, samples: _Samples, metrics: Mapping[str, Measure], batch_size: int) -> _Step:
    """Return what steps this model fastest."""
    if not is_pure(model):
        return _EagerStep(model, samples.loss, metrics)
    if FusedStep.serves(model, samples.X.data.ndim):
        return FusedStep(model, samples.loss, in_step(metrics), batch_size)
    return _CompiledStep(model, samples.loss, metrics)


def repeated_step(model: Layer, X: Any, y: Any, *, loss: str | Loss | None = None) -> Callable[[], Any]:
    """Return a function that takes one step of :meth:`Sequential.fit` on one batch; for measuring.

    Parameters
    ----------
    model : Layer
        Initialized, with an optimizer. Its own arrays stay as they are.
    X, y : array
        The batch.
    loss : str or Loss, optional
        As in :meth:`dense_xp.Sequential.fit`.

    Returns
    -------
    callable
        Without arguments; returns the loss of the step, which may still be on its way.

    Examples
    --------
    >>> import numpy as np
    >>> from dense_xp import Dense
    >>> layer = Dense(1, (2,), rng=0)
    >>> layer.initialize("adam")
    >>> step = repeated_step(layer, np.ones((4, 2)), np.ones(4))
    >>> bool(step() > step())
    True
    """
    with _needs_built(model).scope():
        samples = _Samples(model, X, y, None, loss)
        step = _stepper(model, samples, {}, len(samples))
        step.snapshot()
        batch = samples.take(slice(0, len(samples)))
    rng = model._rng or np.random
    return lambda: step(*batch, rng)[0]


def _loop(
    run: Run,
    step: _Step,
    samples: _Samples,
    validation: _Samples | None,
    metrics: Mapping[str, Measure],
    hooks: Sequence[Callback],
    batch_size: int,
    shuffle: bool,
    rng: Rng,
    verbose: bool | None,
) -> History:
    history, n = run.history, len(samples)
    batches = -(-n // batch_size)
    started = time.perf_counter() - history.seconds
    for hook in hooks:
        hook.begin(run)
    from tqdm.auto import tqdm  # here, because it imports asyncio: half as much again as all of NumPy

    # disable=None: tqdm is silent where standard error is not a terminal
    bar = tqdm(total=run.epochs * batches, unit="batch", disable=None if verbose is None else not verbose)
    try:
        for epoch in range(run.epoch + 1, run.epoch + run.epochs + 1):
            before: Any = step.snapshot()
            order = rng.permutation(n) if shuffle else np.arange(n)
            values, sizes = [], []
            for rows, batch in samples.batches(order, batch_size):
                values.append(step(*batch, rng))
                sizes.append(samples.size(rows))
                bar.update()
            means = _measured(step.model.backend, values, sizes, metrics)
            if not math.isfinite(means["loss"]):
                raise _diverged(step, before, values, epoch, batches, history)
            step.hand_over()
            if validation is not None:
                scores = _score(run.model, validation, metrics, max(batch_size, 256))
                means |= {f"val_{name}": score for name, score in scores.items()}
            history.record(means)
            history.unrecorded = getattr(step, "unrecorded", "")
            history.samples += n
            history.seconds = time.perf_counter() - started
            run.learning_rate = _last_rate(run.model)
            bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()})
            for hook in hooks:
                hook.epoch_end(run)
            if history.stopped:
                break
    except KeyboardInterrupt:
        step.hand_over()  # what was learned is kept
        raise
    finally:
        bar.close()
        for hook in hooks:
            hook.end(run)
    return history


class _OnEpochEnd:
    """A plain function as a callback."""

    def __init__(self, function: Callable[[Run], Any]) -> None:
        if not callable(function):
            raise TypeError(
                f"a callback is a function of the run, or has begin, epoch_end and end; this is a "
                f"{type(function).__name__}"
            )
        self.function = function

    def begin(self, run: Run) -> None:
        pass

    def epoch_end(self, run: Run) -> None:
        self.function(run)

    def end(self, run: Run) -> None:
        pass


def _prepare(model: Layer, X: Any, optimizer: Any) -> None:
    """Initialize a model that is not yet, and give it its optimizer."""
    if model.backend is None:
        with use_backend(resolve(model._setting("backend"), X)):
            model._build_from(X, "adam" if optimizer is None else optimizer)
    elif optimizer is not None or model.optimizer is None:
        model.set_optimizer("adam" if optimizer is None else optimizer)


def _continued(history: History | None, metrics: Mapping[str, Measure], validates: bool) -> History:
    """Return a history to go on with: a copy of one that has the same columns, or a new one."""
    if history is None or not history.metrics:
        return History()
    names = ["loss", *metrics]
    names += [f"val_{name}" for name in names] if validates else []
    if missing := [name for name in names if name not in history]:
        raise ValueError(
            f"the history has no {missing}, which this training measures: measure what it has, {list(history)}, "
            "or start a new one with history=None"
        )
    columns = {name: list(values) for name, values in history.items()}
    return History(columns, history.seconds, history.samples)


def _three(data: Any) -> tuple[Any, Any, Any]:
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        raise ValueError("validation_data must be (X, y) or (X, y, sample_weight)")
    return data[0], data[1], data[2] if len(data) == 3 else None


def _measured(
    backend: Backend | None, values: list[tuple[Array, ...]], sizes: list[float], metrics: Mapping[str, Measure]
) -> dict[str, float]:
    """Return the loss and the metrics over all batches; one transfer from the device for each.

    A metric has a value for what it kept of all; anything else is averaged over the batches by their weight.
    """
    assert backend is not None
    total = sum(sizes) or 1.0
    measured = {}
    for (name, metric), column in zip({"loss": None, **metrics}.items(), zip(*values, strict=True), strict=True):
        if isinstance(metric, Metric):
            measured[name] = float(metric.value(backend.joined(column)))
        else:
            measured[name] = float(backend.scalars(column) @ sizes) / total
    return measured


def _diverged(
    step: _Step,
    before: Any,
    values: list[tuple[Array, ...]],
    epoch: int,
    batches: int,
    history: History,
) -> DivergenceError:
    """Bring the last good weights back, and say where it went wrong."""
    backend = step.model.backend
    assert backend is not None
    losses = backend.scalars([value[0] for value in values])
    bad = np.flatnonzero(~np.isfinite(losses))
    batch = int(bad[0]) + 1 if len(bad) else batches
    step.hand_over()
    broken = [n for n, w in step.model.weights.items() if not np.isfinite(backend.to_numpy(w)).all()]
    step.restore(before)
    where = f"no longer finite: {', '.join(broken)}" if broken else "all weights were still finite"
    return DivergenceError(
        f"the loss became {losses[batch - 1]} in epoch {epoch}, batch {batch} of {batches} ({where}). "
        f"The model has its weights from before that epoch again. Try a smaller learning rate, "
        "clip_norm, or data scaled to about unit size",
        epoch,
        batch,
        history,
    )


# ------------------------------------------------------------------------------------- prediction


def _predictor(model: Layer) -> Callable[[Array], Array]:
    if not is_pure(model):
        return lambda X: model.forward_pass(X, training=False)
    backend, params = model.backend, model.params
    assert backend is not None

    def output(params: Params, X: Array) -> Array:
        return model.forward(params, X)[0]

    function = _compile_once(model, backend, "output", output) if backend.compiles else output
    return lambda X: function(params, X)


def _score(model: Layer, samples: _Samples, metrics: Mapping[str, Measure], batch_size: int) -> dict[str, float]:
    output, statistics = _predictor(model), in_step(metrics)
    values, sizes = [], []
    for rows in _slices(len(samples), batch_size):
        X, y, weight = samples.take(rows)
        Y = widened(output(X))
        values.append((samples.loss(Y, y, weight), *(metric(Y, y, weight) for metric in statistics)))
        sizes.append(samples.size(rows))
    means = _measured(model.backend, values, sizes, metrics)
    penalty = model.penalty(model.params)
    if penalty is not None:  # the same for all batches
        means["loss"] += float(_needs_built(model).scalars([penalty])[0])
    return means


def _slices(n: int, batch_size: int) -> Iterator[slice]:
    return (slice(start, min(start + batch_size, n)) for start in range(0, n, batch_size))


def _needs_built(model: Layer) -> Backend:
    if model.backend is None:
        raise RuntimeError(f"{model.layer_name()} is not initialized: call fit or initialize first")
    return model.backend


def predict(model: Layer, X: Any, *, batch_size: int = 1024) -> Array:
    """Compute the outputs for data; documented at :meth:`dense_xp.Sequential.predict`."""
    backend = _needs_built(model)
    if hasattr(X, "map_blocks"):
        return _predicted_by_blocks(model, X, batch_size)
    with backend.scope():
        rows = _model_input(model, X, backend)
        output = _predictor(model)
        parts = [output(rows.take(chunk)) for chunk in _slices(len(rows), batch_size)]
        if rows.on_device:
            return parts[0] if len(parts) == 1 else backend.xp.concat(parts, axis=0)
        host = [backend.to_numpy(part) for part in parts]
        return host[0] if len(host) == 1 else np.concatenate(host, axis=0)


def _predicted_by_blocks(model: Layer, X: Any, batch_size: int) -> Any:
    """Return the outputs for a chunked array as one: nothing is computed until it is asked for."""
    if X.ndim < 2 or (model.input_shape is not None and X.shape[-1:] != model.input_shape):
        raise ValueError(f"X has shape {X.shape} and {model.layer_name()} expects (n_samples, ..., n_features)")
    whole_samples = X.rechunk({X.ndim - 1: -1})
    return whole_samples.map_blocks(
        lambda block: predict(model, block, batch_size=batch_size),
        chunks=(*whole_samples.chunks[:-1], model.output_shape()),
        dtype=model.dtype,
        meta=np.empty((0,) * X.ndim, dtype=model.dtype),
    )


def evaluate(
    model: Layer,
    X: Any,
    y: Any,
    *,
    loss: str | Loss | None = None,
    metrics: Sequence[MetricLike] = (),
    sample_weight: Any = None,
    batch_size: int = 1024,
) -> dict[str, float]:
    """Measure a model on data; documented at :meth:`dense_xp.Sequential.evaluate`."""
    backend = _needs_built(model)
    with backend.scope():
        samples = _Samples(model, X, y, sample_weight, loss)
        return _score(model, samples, named_metrics(metrics), batch_size)
