"""A step that keeps the arrays and calls the pure step, compiled where the library can."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dense_xp.backend import Array, Backend
from dense_xp.layers.contract import with_inner
from dense_xp.layers.layer import Layer
from dense_xp.learning import loss_scaling
from dense_xp.learning.losses import Loss
from dense_xp.learning.metric import Measure, in_step
from dense_xp.learning.optimizer import Optimizer
from dense_xp.support.dtypes import wide
from dense_xp.support.seeds import Rng
from dense_xp.support.trees import Params, copied, flatten
from dense_xp.training.accumulation import SUMS, Accumulating, accumulating, no_sums
from dense_xp.training.feeding import NoiseFeeder
from dense_xp.training.moments import Moment
from dense_xp.training.step import LOSS_SCALE, train_step


def compile_once(
    model: Layer, backend: Backend, key: str, function: Callable[..., Any], donated: tuple[int, ...] = ()
) -> Callable[..., Any]:
    """Compile a function of this model; the same function for the same key, so that it is traced once."""
    cache = model.compiled
    full = (backend.spec, key, repr(model.get_config()))
    if full not in cache:
        cache[full] = backend.compile(function, donated)
    compiled: Callable[..., Any] = cache[full]
    return compiled


class Packing:
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
        """Return the arrays as one list."""
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
        """Undo :meth:`pack`."""

        def taken(places: Params) -> Params:
            return {key: taken(at) if isinstance(at, dict) else arrays[at] for key, at in places.items()}

        return taken(self.places)


def _common_counts(optimizer: Optimizer, backend: Backend, state: Params) -> tuple[str, ...]:
    """Return the names of an optimizer's counts if they are equal for all parameters: then one array serves."""
    flat = flatten(state)
    counted = [value for key, value in flat.items() if key.rpartition(".")[2] in optimizer.counts]
    return optimizer.counts if counted and len(set(backend.scalars(counted).tolist())) == 1 else ()


class CompiledStep(Accumulating):
    """Steps a pure model by one function of arrays, or by one for each batch and one for each update.

    It holds the arrays, and gives them to the model after each epoch.

    Parameters
    ----------
    model : Layer
        Initialized and pure.
    loss : Loss
        What is minimised.
    metrics : mapping of str to Measure
        What is measured beside it.
    accumulate : int, default 1
        How many batches make one update.
    """

    sums_up = False
    """Whether gradients are summed before the update even if it has one batch."""

    def __init__(self, model: Layer, loss: Loss, metrics: Mapping[str, Measure], accumulate: int = 1) -> None:
        assert model.optimizer is not None
        assert model.backend is not None
        self.model, self.backend, self.optimizer = model, model.backend, model.optimizer
        self.compiles = self.traceable() and self.backend.compiles
        self.scales, self.accumulate, self.waiting = model.dtype == "float16", accumulate, 0
        self.sums_up = self.sums_up or accumulate > 1
        state = self._with_own(model.optimizer_state)
        shared = _common_counts(self.optimizer, self.backend, model.optimizer_state) if self.compiles else ()
        self.packing = packing = Packing(model.params), Packing(state, shared)
        self._take(model.params, state)
        self._rate: tuple[float, Any] = (math.nan, None)
        self.noise = NoiseFeeder(self.backend)
        self.whole = True
        if self.compiles:  # one call for all arrays
            self.copies = compile_once(model, self.backend, "copies", _copies)
        rule, places = _without_rate(self.optimizer), packing[1].places
        key = f"{loss!r} {rule!r} {list(metrics.items())} {_trainable(model)} {places}"
        # compiled code contains the loss's constants; elsewhere they are placed once, and not at each step
        own = loss if self.compiles else loss.placed(self.backend, wide(model.dtype))
        functions = [train_step(model, own, in_step(metrics))]
        if self.sums_up:
            functions = list(accumulating(model, own, in_step(metrics)))
        self.step, *self.update = (self._packed(function, f"{function.__name__} {key}") for function in functions)

    def traceable(self) -> bool:
        """Whether the functions of the step depend on nothing but arrays."""
        return self.optimizer.traceable

    def _packed(self, function: Callable[..., Any], key: str) -> Callable[..., Any]:
        """Return a function of params and state for lists of their arrays, compiled where that can be done."""
        packing = self.packing

        def packed(params: list[Any], state: list[Any], *rest: Any) -> tuple[list[Any], list[Any], tuple[Array, ...]]:
            new_params, new_state, values = function(packing[0].unpack(params), packing[1].unpack(state), *rest)
            return packing[0].pack(new_params), packing[1].pack(new_state), values

        if not self.traceable():
            return packed
        return compile_once(self.model, self.backend, key, packed, (0, 1))  # parameters and state

    @property
    def unrecorded(self) -> str:
        """See :class:`~dense_xp.training.steps.Step`; empty, as nothing is recorded here."""
        return ""

    @property
    def params(self) -> Params:
        """See :class:`~dense_xp.training.steps.Step`."""
        return self.packing[0].unpack(self.arrays)

    def _with_own(self, state: Params) -> Params:
        """Return the optimizer's state, with the loss scale and the sums of gradients if there are any."""
        if self.scales:
            state = {**state, LOSS_SCALE: loss_scaling.place(self.backend, self.model.loss_scale)}
        return {**state, SUMS: no_sums(self.model)} if self.sums_up else state

    def _take(self, params: Params, state: Params) -> None:
        self.arrays, self.state = self.packing[0].pack(params), self.packing[1].pack(state)

    def __call__(self, X: Array, y: Array, weight: Any, rng: Rng) -> tuple[Array, ...]:
        """Take one step on a batch; return the loss and what the metrics keep."""
        noise = self.noise.drawn(self.model, rng, tuple(X.shape))
        values = self._run(self.step, X, y, weight, noise)
        self.count()
        return values

    def move(self) -> None:
        """Update the parameters by the sums of the gradients."""
        for update in self.update:
            self._run(update)

    def _run(self, function: Callable[..., Any], *arrays: Any) -> tuple[Array, ...]:
        """Call a function of the step, keep its new parameters and state, and return its values."""
        rate: Any = self.model.learning_rate()
        if self.compiles:
            if rate != self._rate[0]:
                self._rate = rate, self.backend.asarray(rate, wide(self.model.dtype))
            rate = self._rate[1]
        self.whole = False
        self.arrays, self.state, values = function(self.arrays, self.state, *arrays, rate)
        return tuple(values)

    def begin_epoch(self) -> None:
        """Copy the model's arrays where steps donate theirs."""
        if self.compiles:
            self._take(self.model.params, self._with_own(self.model.optimizer_state))
            self.arrays, self.state = self.copies((self.arrays, self.state))

    def moment(self) -> Moment:
        """Return the model's arrays, which no step writes into."""
        return Moment.of(self.model)

    def hand_over(self) -> None:
        """Give the model its arrays as they are now."""
        self.finish()
        params, state = (
            packing.unpack(arrays) for packing, arrays in zip(self.packing, (self.arrays, self.state), strict=True)
        )
        if self.scales:
            self.model.loss_scale = loss_scaling.read(self.backend, state.pop(LOSS_SCALE))
        state.pop(SUMS, None)
        self.model.params, self.model.optimizer_state = params, state


def _copies(lists: tuple[list[Array], ...]) -> tuple[list[Array], ...]:
    return tuple([copied(array) for array in arrays] for arrays in lists)


def _without_rate(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer without its learning rate, which is an input of a compiled step."""
    other = copy.copy(optimizer)
    other.learning_rate = 0.0
    return other


def _trainable(model: Layer) -> list[bool]:
    return [layer.trainable for layer in with_inner(model)]
