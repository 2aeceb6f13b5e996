"""The training step in memory that it owns: the twin of :func:`dense_xp.training.steps.train_step`.

Three things cost what the matrix products do not: fresh arrays (their pages have to be mapped), passes over
memory, and calls. So each layer of the model becomes a stage that keeps its arrays for all batches. On the way
forward a stage adds its bias and applies its activation in place; on the way back it overwrites its output,
which nobody needs any more, with the gradient. A parameter is moved as soon as its gradient is there, some
rows at a time where it is large, so that the gradients are never held all at once.

It serves every library whose arrays can be written into and for which there are kernels; nothing in it waits for
a device. A stage that has no kernels calls the pure functions of its layer, so every pure layer, loss and metric
serves. The model's own arrays are never written into: after each epoch the model is given copies.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from array_api_compat import array_namespace, device

from dense_xp.backend import Array, Backend, to_numpy
from dense_xp.kernels import kernels_for
from dense_xp.layers.activations import ReLU, Sigmoid, Tanh
from dense_xp.layers.dense import Dense
from dense_xp.layers.dropout import Dropout
from dense_xp.layers.layer import Layer
from dense_xp.layers.normalization import LayerNorm
from dense_xp.learning.losses import Loss, MeanSquaredError, SoftmaxCrossEntropy
from dense_xp.learning.metrics import Statistics
from dense_xp.learning.optimizers import SGD, Adagrad, Adam, AdamW, Lion, Optimizer, RMSprop
from dense_xp.support.seeds import Rng
from dense_xp.support.trees import Params, copied, place

TILE = 3 << 19
"""Numbers of a gradient that are computed, and then used up, at a time.

Small tiles would stay in the cache, but their products cost more than that saves: in two halves, that of 784 × 512
from 128 samples takes 1.4 times as long. Tiles of this size cost nothing, and halve the memory of large layers."""


SMALL = 1 << 18
"""Multiplications in a product that costs about what it costs to call it: layers below that are one stage together."""


_APPLIED: dict[type, str] = {type(None): "linear", ReLU: "relu", Sigmoid: "sigmoid", Tanh: "tanh"}
"""The kernels for what follows the product of a dense layer."""


class Update:
    """One optimizer's kernel, and its constants for a step."""

    def __init__(self, optimizer: Optimizer, kernels: Any) -> None:
        self.optimizer = optimizer
        self.slots, self.kernel, self.constants = _UPDATES[type(optimizer)](optimizer, kernels)
        self._last: tuple[Any, tuple[Any, ...]] = (None, ())

    @staticmethod
    def serves(optimizer: Optimizer) -> bool:
        """Whether there is a kernel for this optimizer; a subclass may compute something else."""
        return type(optimizer) in _UPDATES

    def at(self, rate: float, steps: int) -> tuple[Any, ...]:
        """Return the kernel's constants for a learning rate and the number of steps, this one included."""
        if self._last[0] != (rate, steps):
            decay = 1.0 - rate * self.optimizer.weight_decay
            self._last = ((rate, steps), (rate, decay, *self.constants(steps)))
        return self._last[1]


class _RecordedUpdate(Update):
    """Its rate, decay and counts are numbers on the device, where a recorded step finds those of its turn."""

    def place(self, numbers: Array, counts: Sequence[int]) -> None:
        """Take numbers on the device for them; `counts` are the different numbers of steps before the first turn."""
        self.on_device, self.counts, self.turn = numbers, list(counts), 0

    def next(self, rate: float) -> list[float]:
        """Return what those numbers must be for the next turn."""
        self.turn += 1
        return [rate, 1.0 - rate * self.optimizer.weight_decay, *(float(count + self.turn) for count in self.counts)]

    def at(self, rate: float, steps: int) -> tuple[Any, ...]:
        """Return the constants, with the numbers on the device in place of what changes."""
        count = self.on_device[2 + self.counts.index(steps - self.turn)]
        return self.on_device[0], self.on_device[1], *self.constants(count)


def _sgd(o: Any, k: Any) -> tuple[tuple[str, ...], Callable[..., None], Callable[[Any], tuple[Any, ...]]]:
    if o.momentum:
        return ("velocity",), k.momentum, lambda t: (o.momentum, o.nesterov)
    return (), k.sgd, lambda t: ()


def _rmsprop(o: Any, k: Any) -> tuple[tuple[str, ...], Callable[..., None], Callable[[Any], tuple[Any, ...]]]:
    if o.momentum:
        return ("mean_square", "velocity"), k.rmsprop_momentum, lambda t: (o.rho, o.epsilon, o.momentum)
    return ("mean_square",), k.rmsprop, lambda t: (o.rho, o.epsilon)


def _adam(o: Any, k: Any) -> tuple[tuple[str, ...], Callable[..., None], Callable[[Any], tuple[Any, ...]]]:
    return ("mean", "mean_square"), k.adam, lambda t: (o.beta_1, o.beta_2, o.epsilon, t)


_UPDATES: dict[type[Optimizer], Callable[[Any, Any], Any]] = {
    SGD: _sgd,
    RMSprop: _rmsprop,
    Adam: _adam,
    AdamW: _adam,
    Adagrad: lambda o, k: (("sum_of_squares",), k.adagrad, lambda t: (o.epsilon,)),
    Lion: lambda o, k: (("momentum",), k.lion, lambda t: (o.beta_1, o.beta_2)),
}


class _Block:
    """Parameters with the same number of columns, one above the other in one array, and their state alike."""

    def __init__(self, params: Params, state: Params, run: FusedStep) -> None:
        self.names = tuple(params)
        self.update = run.update
        self.values = _stacked([params[name] for name in self.names], run)
        self.shape = tuple(self.values.shape)
        self.state = [_stacked([state[name][slot] for name in self.names], run) for slot in run.update.slots]
        self.has_steps = "steps" in state[self.names[0]]
        self.steps = int(to_numpy(state[self.names[0]]["steps"])) if self.has_steps else 0
        self.rows: dict[str, slice] = {}
        start = 0
        for name in self.names:
            self.rows[name] = slice(start, start + params[name].shape[0])
            start = self.rows[name].stop

    def tiles(self, size: int) -> list[slice]:
        """Return slices of at most `size` numbers or one row; the last row is in the last of them."""
        count = -(-self.shape[0] // max(1, size // self.shape[1]))
        edges = [round(i * self.shape[0] / count) for i in range(count + 1)]
        return [slice(a, b) for a, b in itertools.pairwise(edges)]

    def flat(self, rows: slice) -> tuple[Array, tuple[Array, ...]]:
        """Return the values and the states of some rows as flat views."""
        return self.values[rows].reshape(-1), tuple(array[rows].reshape(-1) for array in self.state)

    def lie_in(self, values: Array, state: Sequence[Array]) -> None:
        """Move into these flat arrays."""
        for new, old in zip((values, *state), (self.values, *self.state), strict=True):
            new[...] = old.reshape(-1)
        self.values = values.reshape(self.shape)
        self.state = [array.reshape(self.shape) for array in state]

    def params(self) -> Params:
        return {name: copied(self.values[rows, ...]) for name, rows in self.rows.items()}

    def optimizer_state(self) -> Params:
        state: Params = {}
        for name, rows in self.rows.items():
            state[name] = {
                slot: copied(array[rows, ...]) for slot, array in zip(self.update.slots, self.state, strict=True)
            }
            if self.has_steps:
                xp = array_namespace(self.values)
                state[name]["steps"] = xp.asarray(self.steps, dtype=self.values.dtype, device=device(self.values))
        return state


def _stacked(arrays: Sequence[Array], run: FusedStep) -> Array:
    stack = run.empty(sum(array.shape[0] for array in arrays), *arrays[0].shape[1:])
    start = 0
    for array in arrays:
        stack[start : start + array.shape[0], ...] = array
        start += array.shape[0]
    return stack


# ------------------------------------------------------------------------------------- stages


class _Stage:
    """One layer in a step: the pure functions of the layer, and parameters that are moved in place.

    Attributes
    ----------
    blocks : list of _Block
        The parameters that it moves; none if it is frozen.
    owns_linear_output : bool
        Whether its output lies in memory of its own, and nothing of it is needed on the way back.
    """

    owns_linear_output = False

    def __init__(self, path: tuple[str, ...], layer: Layer, learns: bool, run: FusedStep) -> None:
        self.path, self.layer, self.run = path, layer, run
        self.params = {name: copied(p) if name in layer.buffers else p for name, p in layer.params.items()}
        names = [name for name in layer.params if name not in layer.buffers] if learns else []
        self.blocks = self.made_blocks(names)
        for block in self.blocks:
            self.params = {**self.params, **{name: block.values[rows] for name, rows in block.rows.items()}}
        self.grads: list[Array] = []

    def made_blocks(self, names: Sequence[str]) -> list[_Block]:
        layer = self.layer
        return [_Block({name: layer.params[name]}, layer.optimizer_state, self.run) for name in names]

    def largest_tile(self) -> int:
        """Return how many numbers of gradient it wants to hold at a time, in memory that all stages share."""
        return 0

    def plan(self, gradient: Array) -> None:
        """Take that memory."""

    def resize(self, n: int) -> None:
        """Prepare for batches of n samples."""

    def forward(self, X: Array, noise: Any) -> Array:
        Y, self.cache = self.layer.forward(self.params, X, training=True, noise=noise)
        for name, value in self.layer.updated_buffers(self.cache).items():
            self.params[name][...] = value
        return Y

    def backward(self, grad: Array, wanted: bool) -> Array | None:
        """Pull the gradient back, if `wanted`, and move the parameters or keep their gradients."""
        if wanted:
            grad_X, grads = self.layer.backward(self.params, self.cache, grad)
        else:
            grad_X, grads = None, self.layer.parameter_gradients(self.params, self.cache, grad)
        del self.cache
        grads = self.layer.with_penalty(self.params, grads)
        for block in self.blocks:
            self.moved(block, grads[block.names[0]])
        if not self.run.keeps_gradients:
            self.hold()
        return grad_X

    def hold(self) -> None:
        """Put the parameters back to where the constraints of the layer want them."""
        if self.layer.constraints:
            allowed = self.layer.allowed(self.params)
            for block in self.blocks:
                for name, rows in block.rows.items():
                    block.values[rows, ...] = allowed[name]

    def moved(self, block: _Block, grad: Array) -> None:
        if self.run.keeps_gradients:
            self.grads.append(grad.reshape(-1))
        else:
            self.run.move(*block.flat(slice(None)), grad.reshape(-1), block.steps)

    def move_all(self) -> None:
        """Move the parameters by the gradients that were kept."""
        for block, grad in zip(self.blocks, self.grads, strict=True):
            self.run.move(*block.flat(slice(None)), grad, block.steps)
        self.hold()
        self.grads = []

    def own_params(self) -> Params:
        """Return copies of the parameters and of the buffers."""
        buffers = {name: copied(self.params[name]) for name in self.layer.buffers if name in self.params}
        moved = {name: value for block in self.blocks for name, value in block.params().items()}
        return {**self.params, **buffers, **moved}

    def own_state(self) -> Params:
        moved = {name: value for block in self.blocks for name, value in block.optimizer_state().items()}
        return {**self.layer.optimizer_state, **moved}


def _applied(layer: Dense, kernels: Any) -> str:
    """Return the kernels for what follows the product; those for nothing if the activation is a stage of its own."""
    name = _APPLIED.get(type(layer.activation), "linear")
    return name if hasattr(kernels, name) else "linear"


class _DenseStage(_Stage):
    """A Dense layer, with its activation if that has kernels: W and w0 are one array, and so are Y and its gradient."""

    def __init__(self, path: tuple[str, ...], layer: Dense, learns: bool, run: FusedStep) -> None:
        super().__init__(path, layer, learns, run)
        kernels = run.kernels
        self.applied = _applied(layer, kernels)
        self.apply, self.back = getattr(kernels, self.applied), getattr(kernels, f"{self.applied}_backward")
        self.owns_linear_output = self.applied == "linear"
        self.W = self.params["W"]
        no_bias = run.empty(1, layer.n_units)
        no_bias[...] = 0.0
        self.w0 = self.params.get("w0", no_bias)
        self.product, self.columns_product = kernels.product, kernels.columns_product
        self.tiles: list[slice] = []
        if self.blocks:
            block = self.blocks[0]
            self.tiles = [slice(0, block.shape[0])] if run.keeps_gradients else block.tiles(TILE)
        self.work: list[tuple[slice | None, Array, Array | None, Array, Array, tuple[Array, ...]]] = []

    def largest_tile(self) -> int:
        return max(((rows.stop - rows.start) * self.W.shape[1] for rows in self.tiles), default=0)

    def plan(self, gradient: Array) -> None:
        """Take memory, and lay out, for each tile, which columns of X it needs, and where its gradients go."""
        n_in, n_units = self.W.shape
        self.storage = self.run.empty(self.run.batch_size, n_units)
        self.grad_w0 = self.run.empty(1, n_units)
        for rows in self.tiles:
            shape = rows.stop - rows.start, n_units
            tile = self.run.empty(*shape) if self.run.keeps_gradients else gradient[: math.prod(shape)].reshape(shape)
            n = min(rows.stop, n_in) - rows.start
            columns = None if n == n_in else slice(rows.start, rows.start + n)  # None: all of X
            last = tile[n:, :] if n < shape[0] else None
            if last is not None and columns is None:
                self.grad_w0, last = last, None  # written where it belongs in the first place
            self.work.append((columns, tile[:n, :], last, tile.reshape(-1), *self.blocks[0].flat(rows)))

    def made_blocks(self, names: Sequence[str]) -> list[_Block]:
        layer = self.layer
        return [_Block({n: layer.params[n] for n in names}, layer.optimizer_state, self.run)] if names else []

    def resize(self, n: int) -> None:
        self.Y = self.storage[:n]

    def forward(self, X: Array, noise: Any) -> Array:
        self.X = X
        self.product(X, self.W, out=self.Y)
        self.apply(self.Y, self.w0)
        return self.Y

    def backward(self, grad: Array, wanted: bool) -> Array | None:
        self.back(grad, self.Y, self.grad_w0)
        grad, grad_X = self.Y, None
        if wanted:
            grad_X = self.run.scratch(*self.X.shape)
            self.product(grad, self.W.T, out=grad_X)
        if not self.blocks:
            return grad_X
        block, Xt = self.blocks[0], self.X.T
        keeps, move = self.run.keeps_gradients, self.run.move
        for columns, grad_W, last, flat, values, state in self.work:
            if columns is None:
                self.product(Xt, grad, out=grad_W)
            elif columns.stop > columns.start:
                self.columns_product(Xt[columns, :], grad, out=grad_W)
            if last is not None:
                last[...] = self.grad_w0
            if keeps:
                self.grads.append(flat)
            else:
                move(values, state, flat, block.steps)
        return grad_X


class _ChainStage(_Stage):
    """Small dense layers in a row: one call forward, one back, one to move them, because calls are what they cost.

    Their parameters lie in one flat array, and so do their outputs and gradients.
    """

    def __init__(self, layers: Sequence[_DenseStage], run: FusedStep) -> None:
        self.path, self.run, self.grads = (), run, []
        self.blocks = [block for stage in layers for block in stage.blocks]
        sizes = [math.prod(block.shape) for block in self.blocks]
        self.values = run.empty(sum(sizes))
        self.state = tuple(run.empty(sum(sizes)) for _ in run.update.slots)
        for block, (a, b) in zip(self.blocks, itertools.pairwise(itertools.accumulate(sizes, initial=0)), strict=True):
            block.lie_in(self.values[a:b], [array[a:b] for array in self.state])
        widths = [layers[0].W.shape[0], *(stage.W.shape[1] for stage in layers)]
        self.owns_linear_output = layers[-1].owns_linear_output
        self.storage = run.empty(run.batch_size * sum(widths[1:]))
        self.scratch = run.empty(run.batch_size * max(widths[:-1]))
        self.sizes = widths[0], sum(widths[1:-1]), widths[-1]
        rectified = [stage.applied == "relu" for stage in layers]
        self.fixed = self.values, run.backend.asarray(widths), run.backend.asarray(rectified), self.storage

    def largest_tile(self) -> int:
        return int(self.values.shape[0])

    def plan(self, gradient: Array) -> None:
        size = self.largest_tile()
        self.gradient = self.run.empty(size) if self.run.keeps_gradients else gradient[:size]

    def resize(self, n: int) -> None:
        n_in, before, n_out = (n * size for size in self.sizes)
        self.Y = self.storage[before : before + n_out].reshape(n, -1)
        self.grad_X = self.scratch[:n_in].reshape(n, -1)

    def forward(self, X: Array, noise: Any) -> Array:
        self.X = X
        self.run.kernels.chain(X, *self.fixed)
        return self.Y

    def backward(self, grad: Array, wanted: bool) -> Array | None:
        self.run.kernels.chain_backward(self.X, grad, *self.fixed, self.gradient, self.scratch, wanted)
        if self.run.keeps_gradients:
            self.grads.append(self.gradient)
        else:
            self.move_all()
        return self.grad_X if wanted else None

    def move_all(self) -> None:
        self.run.move(self.values, self.state, self.gradient, self.blocks[0].steps)
        self.grads = []


class _DropoutStage(_Stage):
    """Dropout into an array of its own, over which the gradient is written."""

    def __init__(self, path: tuple[str, ...], layer: Dropout, learns: bool, run: FusedStep) -> None:
        super().__init__(path, layer, learns, run)
        self.scale = 1.0 / (1.0 - layer.rate)
        self.storage = run.empty(run.batch_size, *layer.output_shape())

    def resize(self, n: int) -> None:
        self.Y = self.storage[:n]

    def forward(self, X: Array, noise: Any) -> Array:
        self.keep = noise
        if noise is None:
            return X
        self.run.kernels.dropout(X, noise, self.scale, self.Y)
        return self.Y

    def backward(self, grad: Array, wanted: bool) -> Array | None:
        if self.keep is None:
            return grad
        self.run.kernels.dropout(grad, self.keep, self.scale, self.Y)
        return self.Y


class _LayerNormStage(_Stage):
    """Layer normalization into arrays of its own."""

    def __init__(self, path: tuple[str, ...], layer: LayerNorm, learns: bool, run: FusedStep) -> None:
        super().__init__(path, layer, learns, run)
        shape = run.batch_size, *layer.output_shape()
        self.storage = run.empty(*shape), run.empty(*shape), run.empty(shape[0], 1)
        self.gradients = {name: run.empty(*value.shape) for name, value in self.params.items()}

    def resize(self, n: int) -> None:
        self.Y, self.normed, self.inverse = (array[:n] for array in self.storage)

    def forward(self, X: Array, noise: Any) -> Array:
        gamma, beta = self.params["gamma"], self.params["beta"]
        self.run.kernels.layer_norm(X, gamma, beta, self.layer.epsilon, self.normed, self.inverse, self.Y)  # type: ignore[attr-defined]
        return self.Y

    def backward(self, grad: Array, wanted: bool) -> Array | None:
        own = self.gradients
        self.run.kernels.layer_norm_backward(
            grad, self.params["gamma"], self.normed, self.inverse, own["gamma"], own["beta"], self.Y
        )
        for block in self.blocks:
            self.moved(block, own[block.names[0]])
        return self.Y


class _ActivationStage(_Stage):
    """The activation of a Dense layer that has no kernel: its pure functions, after the affine map."""

    def __init__(self, path: tuple[str, ...], layer: Dense, learns: bool, run: FusedStep) -> None:
        assert layer.activation is not None
        super().__init__(path, layer.activation, False, run)

    def own_params(self) -> Params:
        return {}

    def own_state(self) -> Params:
        return {}


def _stages(path: tuple[str, ...], layer: Layer, learns: bool, run: FusedStep) -> list[_Stage]:
    """Return what does the work of a layer: one stage, or two."""
    # a subclass may compute something else: it is taken at its pure functions' word
    kinds: list[type[Any]] = [_Stage]
    free = not layer.regularizers and not layer.constraints
    if free and type(layer) is Dense:
        apart = layer.activation is not None and _applied(layer, run.kernels) == "linear"
        kinds = [_DenseStage, _ActivationStage] if apart else [_DenseStage]
    elif free and type(layer) is LayerNorm and hasattr(run.kernels, "layer_norm"):
        kinds = [_LayerNormStage]
    elif type(layer) is Dropout:
        kinds = [_DropoutStage]
    return [kind(path, layer, learns, run) for kind in kinds]


def _chained(stages: Sequence[_Stage], run: FusedStep) -> Iterator[_Stage]:
    """Yield the stages, those of small dense layers in a row as one where there is a kernel for that."""

    def steps_if_small(stage: _Stage) -> int | None:
        if type(stage) is not _DenseStage or not stage.blocks or "w0" not in stage.params:
            return None
        if stage.applied not in ("linear", "relu"):  # numba's own exponentials take one number after the other
            return None
        return stage.blocks[0].steps if run.batch_size * math.prod(stage.W.shape) <= SMALL else None

    if not getattr(run.kernels, "CHAINS", False):
        yield from stages
        return
    for steps, row in itertools.groupby(stages, steps_if_small):
        if steps is None:
            yield from row
        else:
            yield _ChainStage([stage for stage in row if isinstance(stage, _DenseStage)], run)


def _leaves(layer: Layer, path: tuple[str, ...] = (), learns: bool = True) -> Iterator[tuple[Any, Layer, bool]]:
    """Yield the layers inside a model in order, each with its path and whether it learns."""
    learns = learns and (layer.trainable or not path)
    if not layer.children:
        yield path, layer, learns
    for key, inner in layer.children.items():
        yield from _leaves(inner, (*path, key), learns)


# ------------------------------------------------------------------------------------- the step


class FusedStep:
    """Steps a model; its arrays are here while it trains, and copies of them in the model.

    Parameters
    ----------
    model : Layer
        Initialized, pure, on a backend with kernels.
    loss : Loss
        What is minimised.
    metrics : sequence of callables
        Computed from the same prediction, target and weights.
    batch_size : int
        The most samples that a batch will have.
    """

    def __init__(self, model: Layer, loss: Loss, metrics: Sequence[Statistics], batch_size: int) -> None:
        assert model.optimizer is not None
        assert model.backend is not None
        self.backend = model.backend
        self.model, self.loss, self.metrics, self.batch_size = model, loss, tuple(metrics), batch_size
        self.optimizer = model.optimizer
        self.kernels = kernels_for(self.backend.kernels)
        recorder = getattr(self.kernels, "Recorder", None)
        self.update = (Update if recorder is None else _RecordedUpdate)(self.optimizer, self.kernels)
        self.keeps_gradients = self.optimizer.clip_norm is not None
        self.dtype = self.backend.dtype(model.dtype)
        self._scratch, self._scratch_size = self.empty(0), 0
        leaves = list(_leaves(model))
        self.layers = [stage for path, layer, learns in leaves for stage in _stages(path, layer, learns, self)]
        self.stages = list(_chained(self.layers, self))
        gradient = self.empty(0 if self.keeps_gradients else max(stage.largest_tile() for stage in self.stages))
        for stage in self.stages:
            stage.plan(gradient)
        learning = [i for i, stage in enumerate(self.stages) if stage.blocks]
        self.first = min(learning, default=len(self.stages))
        self.regularized = [stage for stage in self.layers if stage.blocks and stage.layer.regularizers]
        self.blocks = [block for stage in self.stages for block in stage.blocks]
        self.recorder: Any = None
        if recorder is not None and isinstance(self.update, _RecordedUpdate):
            counts = sorted({block.steps for block in self.blocks})
            self.recorder = recorder(2 + len(counts), self.dtype)
            self.update.place(self.recorder.numbers, counts)
        self.size = 0
        self.rate = 0.0

    @staticmethod
    def serves(model: Layer, X_ndim: int) -> bool:
        """Whether the step of this model can be taken here."""
        optimizer = model.optimizer
        return (
            model.backend is not None
            and bool(model.backend.kernels)
            and model.dtype in ("float32", "float64")
            and X_ndim == 2
            and optimizer is not None
            and Update.serves(optimizer)
            and all(_one_count(layer, model.backend) for _, layer, _ in _leaves(model))
        )

    # ------------------------------------------------------------------ memory

    def empty(self, *shape: int) -> Array:
        """Return new memory of the model's dtype."""
        make = getattr(self.kernels, "empty", self.backend.xp.empty)
        return make(shape, dtype=self.dtype, device=self.backend.device)

    def scratch(self, *shape: int) -> Array:
        """Return memory for the gradient of an input, which is used up before the next one is asked for."""
        size = math.prod(shape)
        if self._scratch_size < size:  # for the largest batch at once: a recorded step must find it where it was
            self._scratch_size = size // shape[0] * self.batch_size
            self._scratch = self.empty(self._scratch_size)
        return self._scratch[:size].reshape(shape)

    # ------------------------------------------------------------------ one step

    def __call__(self, X: Array, y: Array, weight: Any, rng: Rng) -> tuple[Any, ...]:
        """Take one step on a batch; return the loss and the metrics."""
        if X.shape[0] != self.size:
            self.size = X.shape[0]
            for stage in self.stages:
                stage.resize(self.size)
        self.rate = self.model.learning_rate()
        noise = self.model.draw_noise(rng, tuple(X.shape))
        if noise is not None:
            noise = place(self.backend, noise)
        for block in self.blocks:
            block.steps += 1
        if isinstance(self.update, _RecordedUpdate):
            values: tuple[Any, ...] = self.recorder(self.work, (X, y, weight, noise), self.update.next(self.rate))
        else:
            values = self.work(X, y, weight, noise)
        self.model.steps += 1
        return values

    @property
    def unrecorded(self) -> str:
        """Why the steps are not replayed as one recorded graph; empty if they are, or if the library has none."""
        return "" if self.recorder is None else self.recorder.reason

    def work(self, X: Array, y: Array, weight: Any, noise: Any) -> tuple[Any, ...]:
        """Do what a step does with arrays: nothing in here may depend on what changes on the host."""
        Y = X
        for stage in self.stages:
            stage.grads = []
            Y = stage.forward(Y, noise if noise is None else _at(noise, stage.path))
        values = [copied(metric(Y, y, weight)) for metric in self.metrics]  # Y is overwritten, and so would be a view
        value, grad = self.value_and_grad(Y, y, weight)
        for stage in self.regularized:
            value = value + stage.layer.penalty(stage.params)
        for i in range(len(self.stages) - 1, self.first - 1, -1):
            grad = self.stages[i].backward(grad, i > self.first)
        if self.keeps_gradients:
            self.move_clipped()
        return (value, *values)

    def value_and_grad(self, Y: Array, y: Array, weight: Any) -> tuple[Any, Array]:
        """Return the loss and its gradient, written over the prediction where that is ours and not needed."""
        loss, last = self.loss, self.stages[-1]
        if last.owns_linear_output and weight is None:
            if type(loss) is SoftmaxCrossEntropy and y.ndim == 1 and loss.class_weight is None:
                return self.kernels.softmax_cross_entropy(Y, y, loss.label_smoothing), Y
            if type(loss) is MeanSquaredError and y.dtype == Y.dtype:
                return self.kernels.squared_error(Y, y), Y
        return loss.value_and_grad(Y, y, weight)

    def move(self, values: Array, state: tuple[Array, ...], grad: Array, steps: int) -> None:
        """Move some parameters by their gradient."""
        limit = self.optimizer.clip_value
        if limit is not None and not self.keeps_gradients:
            self.kernels.clip(grad, limit)
        self.update.kernel(values, grad, *state, *self.update.at(self.rate, steps))

    def move_clipped(self) -> None:
        """Scale all gradients down to the common norm that is allowed, and move all parameters."""
        grads = [grad for stage in self.stages for grad in stage.grads]
        if self.optimizer.clip_value is not None:
            for grad in grads:
                self.kernels.clip(grad, self.optimizer.clip_value)
        if grads:
            self.kernels.clip_norm(grads, self.optimizer.clip_norm)
        for stage in self.stages:
            stage.move_all()

    # ------------------------------------------------------------------ the model's share

    def hand_over(self) -> None:
        """Give the model copies of the arrays as they are now."""
        self.model.params = _tree((stage.path, stage.own_params()) for stage in self.layers)
        self.model.optimizer_state = _tree((stage.path, stage.own_state()) for stage in self.layers)

    def snapshot(self) -> tuple[Params, Params, int]:
        """Return what the model has: the arrays of the last epoch, which no step writes into."""
        return self.model.params, self.model.optimizer_state, self.model.steps

    def restore(self, snapshot: tuple[Params, Params, int]) -> None:
        """Give the model those back. The training is over after that."""
        self.model.params, self.model.optimizer_state, self.model.steps = snapshot


def _one_count(layer: Layer, backend: Backend) -> bool:
    """Whether all parameters of a layer were moved equally often, as one kernel call assumes."""
    steps = [own["steps"] for own in layer.optimizer_state.values() if "steps" in own]
    return not steps or len(set(backend.scalars(steps).tolist())) == 1


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if tree is None:
            return None
        tree = tree.get(key)
    return tree


def _tree(leaves: Any) -> Params:
    tree: Params = {}
    for path, own in leaves:
        if not own:
            continue
        if not path:
            return dict(own)
        inner = tree
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = own
    return tree
