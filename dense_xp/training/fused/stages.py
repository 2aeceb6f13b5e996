"""The layers of a model in a step: each keeps its arrays for all batches, and updates its parameters in place."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dense_xp.backend import Array
from dense_xp.kernels import optional
from dense_xp.layers.activations import (
    ELU,
    GELU,
    SELU,
    LeakyReLU,
    Mish,
    ReLU,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from dense_xp.layers.dense import Dense
from dense_xp.layers.dropout import Dropout
from dense_xp.layers.layer import Layer
from dense_xp.layers.normalization import LayerNorm
from dense_xp.support.trees import Params, copied
from dense_xp.training.fused.blocks import Block
from dense_xp.training.fused.workspace import Workspace

TILE = 3 << 19
"""Numbers of a gradient that are computed, and then used up, at a time.

Small tiles would stay in the cache, but their products cost more than that saves: in two halves, that of 784 × 512
from 128 samples takes 1.4 times as long. Tiles of this size cost nothing, and halve the memory of large layers."""

SMALL = 1 << 18
"""Multiplications that take as long as the call of a product: layers with fewer are one stage together."""

_APPLIED: dict[type, str] = {ReLU: "relu", Sigmoid: "sigmoid", Tanh: "tanh"}
"""Activations of a dense layer whose derivative is computed from the output, and their kernels."""

_CURVES: dict[type, Callable[[Any], tuple[str, tuple[float, ...]]]] = {
    LeakyReLU: lambda a: ("leaky_relu", (a.negative_slope,)),
    ELU: lambda a: ("elu", (a.alpha, 1.0)),
    SELU: lambda a: ("elu", (a.scale * a.alpha, a.scale)),
    GELU: lambda a: ("gelu", ()),
    SiLU: lambda a: ("silu", ()),
    Mish: lambda a: ("mish", ()),
    Softplus: lambda a: ("softplus", ()),
}
"""Activations whose derivative is kept: their names in the kernel for that, and their constants."""


class Stage:
    """One layer in a step: the pure functions of the layer, and parameters that are updated in place.

    Attributes
    ----------
    blocks : list of Block
        The parameters that it updates; none if it is frozen.
    owns_linear_output : bool
        Whether its output is in memory of its own, and is not needed in the backward pass.
    """

    owns_linear_output = False

    def __init__(self, path: tuple[str, ...], layer: Layer, learns: bool, space: Workspace) -> None:
        self.path, self.layer, self.space = path, layer, space
        self.params = {name: copied(p) if name in layer.buffers else p for name, p in layer.params.items()}
        names = [name for name in layer.params if name not in layer.buffers] if learns else []
        self.blocks = self.made_blocks(names)
        for block in self.blocks:
            self.params = {**self.params, **{name: block.values[rows] for name, rows in block.rows.items()}}
        self.grads: list[Array] = []

    def made_blocks(self, names: Sequence[str]) -> list[Block]:
        """Take these parameters of the layer into memory of the step."""
        layer = self.layer
        return [Block({name: layer.params[name]}, layer.optimizer_state, self.space) for name in names]

    def largest_tile(self) -> int:
        """Return how many numbers of the gradient it holds at a time."""
        return sum(math.prod(block.shape) for block in self.blocks) if self.space.keeps_gradients else 0

    def plan(self, gradient: Array) -> None:
        """Take memory for that many."""
        self.gradient = gradient

    def resize(self, n: int) -> None:
        """Prepare for batches of n samples."""

    def forward(self, X: Array, noise: Any) -> Array:
        """Return the output for a batch, and keep what the backward pass needs."""
        Y, self.cache = self.layer.forward(self.params, X, training=True, noise=noise)
        for name, value in self.layer.updated_buffers(self.cache).items():
            self.params[name][...] = value
        return Y

    def backward(self, grad: Array, wanted: bool) -> Array | None:
        """Update the parameters or keep their gradients; return the gradient of the input, if `wanted`."""
        if wanted:
            grad_X, grads = self.layer.backward(self.params, self.cache, grad)
        else:
            grad_X, grads = None, self.layer.parameter_gradients(self.params, self.cache, grad)
        del self.cache
        if not self.space.accumulates:
            grads = self.layer.with_penalty(self.params, grads)
        for block in self.blocks:
            self.move(block, grads[block.names[0]])
        if not self.space.keeps_gradients:
            self.constrain()
        return grad_X

    def constrain(self) -> None:
        """Apply the constraints of the layer to the parameters."""
        if self.layer.constraints:
            allowed = self.layer.allowed(self.params)
            for block in self.blocks:
                for name, rows in block.rows.items():
                    block.values[rows, ...] = allowed[name]

    def move(self, block: Block, grad: Array) -> None:
        """Update the parameters of a block, or keep their gradient."""
        if self.space.keeps_gradients:
            start = sum(kept.shape[0] for kept in self.grads)
            self.grads.append(self.gradient[start : start + math.prod(block.shape)])
            self.grads[-1][...] = grad.reshape(-1)
        else:
            self.space.move(*block.flat(slice(None)), grad.reshape(-1), block.steps, block.decays)

    def penalize(self) -> None:
        """Add the gradients of the penalties to those that were kept."""
        grads = {b.names[0]: grad.reshape(b.shape) for b, grad in zip(self.blocks, self.grads, strict=True)}
        penalized = self.layer.with_penalty(self.params, grads)
        self.grads = [penalized[block.names[0]].reshape(-1) for block in self.blocks]

    def move_all(self) -> None:
        """Update the parameters by the gradients that were kept."""
        for block, grad in zip(self.blocks, self.grads, strict=True):
            self.space.move(*block.flat(slice(None)), grad, block.steps, block.decays)
        self.constrain()
        self.grads = []

    def views(self) -> Params:
        """Return the parameters and the buffers where they are."""
        return self.params | {name: b.values[rows, ...] for b in self.blocks for name, rows in b.rows.items()}

    def own_params(self) -> Params:
        """Return copies of the parameters and of the buffers."""
        buffers = {name: copied(self.params[name]) for name in self.layer.buffers if name in self.params}
        moved = {name: value for block in self.blocks for name, value in block.params().items()}
        return {**self.params, **buffers, **moved}

    def own_state(self) -> Params:
        """Return copies of the optimizer's state."""
        moved = {name: value for block in self.blocks for name, value in block.optimizer_state().items()}
        return {**self.layer.optimizer_state, **moved}


def _applied(layer: Dense, kernels: Any) -> tuple[str, Any, Any]:
    """Return what follows the product: name, kernel, backward; "linear" if the activation is a stage of its own."""
    kind = type(layer.activation)
    if kind in _CURVES and (kernel := optional(kernels, "activation")) is not None:
        kernel = functools.partial(kernel, *_CURVES[kind](layer.activation))
        return "activation", kernel, optional(kernels, "activation_backward")
    name = _APPLIED.get(kind)
    if name is not None and (kernel := optional(kernels, name)) is not None:
        return name, kernel, optional(kernels, f"{name}_backward")
    return "linear", kernels.linear, kernels.linear_backward


class DenseStage(Stage):
    """A Dense layer, with its activation if that has kernels.

    W and w0 are one array, unless only one of them decays. The product is written into Z, and the gradient over it.
    The output is in Z too, unless Z holds the derivative of the activation.
    """

    def __init__(self, path: tuple[str, ...], layer: Dense, learns: bool, space: Workspace) -> None:
        super().__init__(path, layer, learns, space)
        kernels = space.kernels
        self.applied, self.apply, self.apply_backward = _applied(layer, kernels)
        self.owns_linear_output = self.applied in ("linear", "activation")
        self.keeps_slope = self.applied == "activation"
        self.W = self.params["W"]
        no_bias = space.empty(1, layer.n_units)
        no_bias[...] = 0.0
        self.w0 = self.params.get("w0", no_bias)
        self.product = kernels.few_product if space.few_rows else kernels.product
        self.columns_product = kernels.columns_product
        self.tiles: list[slice] = []
        if self.blocks:
            block = self.blocks[0]
            size = TILE * (optional(kernels, "LARGER_TILES") or 1)
            self.tiles = [slice(0, block.shape[0])] if space.keeps_gradients else block.tiles(size)
        self.jobs: list[tuple[slice | None, Array, Array | None, Array, Array, tuple[Array, ...]]] = []

    def largest_tile(self) -> int:
        units = int(self.W.shape[1])
        tiles: list[int] = [(rows.stop - rows.start) * units for rows in self.tiles]
        return max(*tiles, super().largest_tile(), 0)

    def plan(self, gradient: Array) -> None:
        """Take memory; find, for each tile, the columns of X that it needs and the place of its gradients."""
        super().plan(gradient)
        n_in, n_units = self.W.shape
        self.storage = [self.space.empty(self.space.batch_size, n_units) for _ in range(1 + self.keeps_slope)]
        self.grad_w0 = self.space.empty(1, n_units)
        for rows in self.tiles:
            shape = rows.stop - rows.start, n_units
            tile = gradient[: math.prod(shape)].reshape(shape)
            n = min(rows.stop, n_in) - rows.start
            columns = None if n == n_in else slice(rows.start, rows.start + n)  # None: all of X
            last = tile[n:, :] if n < shape[0] else None
            if last is not None and columns is None:
                self.grad_w0, last = last, None  # written to its final place
            self.jobs.append((columns, tile[:n, :], last, tile.reshape(-1), *self.blocks[0].flat(rows)))

    def made_blocks(self, names: Sequence[str]) -> list[Block]:
        layer, alike = self.layer, itertools.groupby(names, self.space.update.decays)
        return [Block({n: layer.params[n] for n in group}, layer.optimizer_state, self.space) for _, group in alike]

    def resize(self, n: int) -> None:
        self.Z, *apart = (array[:n] for array in self.storage)
        self.applies, self.Y = (self.Z, self.w0, *apart), (apart or [self.Z])[0]

    def forward(self, X: Array, noise: Any) -> Array:
        self.X = X
        self.product(X, self.W, out=self.Z)
        self.apply(*self.applies)
        return self.Y

    def backward(self, grad: Array, wanted: bool) -> Array | None:
        grad = self.activation_gradient(grad)
        grad_X = self.input_gradient(grad) if wanted else None
        if self.blocks:
            self.learn(grad)
        return grad_X

    def activation_gradient(self, grad: Array) -> Array:
        """Return the gradient before the activation, and sum it for the bias."""
        self.apply_backward(grad, self.Z, self.grad_w0)
        return self.Z

    def input_gradient(self, grad: Array) -> Array:
        """Return the gradient of the input."""
        grad_X = self.space.scratch(*self.X.shape)
        self.product(grad, self.W.T, out=grad_X)
        return grad_X

    def weight_gradient(self, grad: Array, out: Array) -> None:
        """Write the gradient of all of W."""
        self.product(self.X.T, grad, out=out)

    def learn(self, grad: Array) -> None:
        """Update the parameters, or keep their gradients."""
        (block, *apart), Xt = self.blocks, self.X.T
        keeps, move = self.space.keeps_gradients, self.space.move
        if self.space.moves_at_once and self.learned_at_once(block, grad):
            return
        for columns, grad_W, last, flat, values, state in self.jobs:
            if columns is None:
                self.weight_gradient(grad, grad_W)
            elif columns.stop > columns.start:
                self.columns_product(Xt[columns, :], grad, out=grad_W)
            if last is not None:
                last[...] = self.grad_w0
            if keeps:
                self.grads.append(flat)
            else:
                move(values, state, flat, block.steps, block.decays)
        for block in apart:
            self.move(block, self.grad_w0)

    def learned_at_once(self, block: Block, grad: Array) -> bool:
        """Update a block by one kernel that keeps no gradient of W; return whether there is one for this batch."""
        n_in, update = self.W.shape[0], self.space.update
        constants = update.at(self.space.rate, block.steps, block.decays)
        W, *state = (array[:n_in] for array in (block.values, *block.state))
        if not self.space.kernels.learn(self.X, grad, W, state, update.kernel, constants):
            return False
        if block.shape[0] > n_in:
            self.space.move(*block.flat(slice(n_in, None)), self.grad_w0.reshape(-1), block.steps, block.decays)
        return True


class ChainStage(Stage):
    """Small dense layers in a row: one call each for forward, backward and update, as calls take most of their time.

    Their parameters lie in one flat array, and so do their outputs and gradients.
    """

    def __init__(self, layers: Sequence[DenseStage], space: Workspace) -> None:
        self.path, self.space, self.grads = (), space, []
        self.blocks = [block for stage in layers for block in stage.blocks]
        edges = list(itertools.accumulate((math.prod(block.shape) for block in self.blocks), initial=0))
        self.values = space.empty(edges[-1])
        self.state = tuple(space.empty(edges[-1]) for _ in space.update.slots)
        self.parts = [
            (slice(a, b), block.decays) for block, (a, b) in zip(self.blocks, itertools.pairwise(edges), strict=True)
        ]
        for block, (part, _) in zip(self.blocks, self.parts, strict=True):
            block.move_into(self.values[part], [array[part] for array in self.state])
        if len({block.decays for block in self.blocks}) == 1:
            self.parts = [(slice(None), self.blocks[0].decays)]
        widths = [layers[0].W.shape[0], *(stage.W.shape[1] for stage in layers)]
        self.owns_linear_output = layers[-1].owns_linear_output
        self.storage = space.empty(space.batch_size * sum(widths[1:]))
        self.scratch = space.empty(space.batch_size * max(widths[:-1]))
        self.sizes = widths[0], sum(widths[1:-1]), widths[-1]
        rectified = [stage.applied == "relu" for stage in layers]
        self.fixed = self.values, space.backend.asarray(widths), space.backend.asarray(rectified), self.storage

    def largest_tile(self) -> int:
        return int(self.values.shape[0])

    def plan(self, gradient: Array) -> None:
        self.gradient = gradient[: self.largest_tile()]
        self.moves = [
            (self.values[part], tuple(array[part] for array in self.state), self.gradient[part], decays)
            for part, decays in self.parts
        ]

    def resize(self, n: int) -> None:
        n_in, before, n_out = (n * size for size in self.sizes)
        self.Y = self.storage[before : before + n_out].reshape(n, -1)
        self.grad_X = self.scratch[:n_in].reshape(n, -1)

    def forward(self, X: Array, noise: Any) -> Array:
        self.X = X
        self.space.kernels.chain(X, *self.fixed)
        return self.Y

    def backward(self, grad: Array, wanted: bool) -> Array | None:
        self.space.kernels.chain_backward(self.X, grad, *self.fixed, self.gradient, self.scratch, wanted)
        if self.space.keeps_gradients:
            self.grads.append(self.gradient)
        else:
            self.move_all()
        return self.grad_X if wanted else None

    def move_all(self) -> None:
        for values, state, grad, decays in self.moves:
            self.space.move(values, state, grad, self.blocks[0].steps, decays)
        self.grads = []


class DropoutStage(Stage):
    """Dropout into an array of its own, over which the gradient is written."""

    def __init__(self, path: tuple[str, ...], layer: Dropout, learns: bool, space: Workspace) -> None:
        super().__init__(path, layer, learns, space)
        self.scale = 1.0 / (1.0 - layer.rate)
        self.storage = space.empty(space.batch_size, *layer.output_shape())

    def resize(self, n: int) -> None:
        self.Y = self.storage[:n]

    def forward(self, X: Array, noise: Any) -> Array:
        self.keep = noise
        if noise is None:
            return X
        self.space.kernels.dropout(X, noise, self.scale, self.Y)
        return self.Y

    def backward(self, grad: Array, wanted: bool) -> Array | None:
        if self.keep is None:
            return grad
        self.space.kernels.dropout(grad, self.keep, self.scale, self.Y)
        return self.Y


class LayerNormStage(Stage):
    """Layer normalization into arrays of its own."""

    def __init__(self, path: tuple[str, ...], layer: LayerNorm, learns: bool, space: Workspace) -> None:
        super().__init__(path, layer, learns, space)
        shape = space.batch_size, *layer.output_shape()
        self.storage = space.empty(*shape), space.empty(*shape), space.empty(shape[0], 1)
        self.gradients = {name: space.empty(*value.shape) for name, value in self.params.items()}

    def resize(self, n: int) -> None:
        self.Y, self.normed, self.inverse = (array[:n] for array in self.storage)

    def forward(self, X: Array, noise: Any) -> Array:
        gamma, beta = self.params["gamma"], self.params["beta"]
        self.space.kernels.layer_norm(X, gamma, beta, self.layer.epsilon, self.normed, self.inverse, self.Y)  # type: ignore[attr-defined]
        return self.Y

    def backward(self, grad: Array, wanted: bool) -> Array | None:
        own = self.gradients
        self.space.kernels.layer_norm_backward(
            grad, self.params["gamma"], self.normed, self.inverse, own["gamma"], own["beta"], self.Y
        )
        for block in self.blocks:
            self.move(block, own[block.names[0]])
        return self.Y


class ActivationStage(Stage):
    """The activation of a Dense layer that has no kernel: its pure functions, after the affine map."""

    def __init__(self, path: tuple[str, ...], layer: Dense, learns: bool, space: Workspace) -> None:
        assert layer.activation is not None
        super().__init__(path, layer.activation, False, space)

    def views(self) -> Params:
        return {}

    def own_params(self) -> Params:
        return {}

    def own_state(self) -> Params:
        return {}


def stages_of(
    path: tuple[str, ...], layer: Layer, learns: bool, space: Workspace, dense: type[DenseStage] = DenseStage
) -> list[Stage]:
    """Return the stages of a layer, one or two; `dense` is the class for dense layers."""
    # a subclass may compute something else: its pure functions are called
    kinds: list[type[Any]] = [Stage]
    free = not layer.regularizers and not layer.constraints
    if free and type(layer) is Dense:
        apart = layer.activation is not None and _applied(layer, space.kernels)[0] == "linear"
        kinds = [dense, ActivationStage] if apart else [dense]
    elif free and type(layer) is LayerNorm and optional(space.kernels, "layer_norm"):
        kinds = [LayerNormStage]
    elif type(layer) is Dropout:
        kinds = [DropoutStage]
    return [kind(path, layer, learns, space) for kind in kinds]


def chained(stages: Sequence[Stage], space: Workspace) -> Iterator[Stage]:
    """Yield the stages, those of small dense layers in a row as one where there is a kernel for that."""

    def steps_if_small(stage: Stage) -> int | None:
        if type(stage) is not DenseStage or not stage.blocks or "w0" not in stage.params:
            return None
        if stage.applied not in ("linear", "relu"):  # numba's exponentials are not vectorised
            return None
        return stage.blocks[0].steps if space.batch_size * math.prod(stage.W.shape) <= SMALL else None

    if not optional(space.kernels, "chain"):
        yield from stages
        return
    for steps, row in itertools.groupby(stages, steps_if_small):
        if steps is None:
            yield from row
        else:
            yield ChainStage([stage for stage in row if isinstance(stage, DenseStage)], space)


def leaves(layer: Layer, path: tuple[str, ...] = (), learns: bool = True) -> Iterator[tuple[Any, Layer, bool]]:
    """Yield the layers inside a model in order, each with its path and whether it learns."""
    learns = learns and (layer.trainable or not path)
    if not layer.children:
        yield path, layer, learns
    for key, inner in layer.children.items():
        yield from leaves(inner, (*path, key), learns)
