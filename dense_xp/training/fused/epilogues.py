"""Dense layers whose matrix products have epilogues: bias and ReLU, and their gradients, within the product."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from dense_xp.backend import Array
from dense_xp.layers.dense import Dense
from dense_xp.training.fused.stages import DenseStage, Stage
from dense_xp.training.fused.workspace import Workspace


class EpilogueStage(DenseStage):
    """A dense layer whose product adds the bias and applies a ReLU; other activations have a kernel.

    In the backward pass, the next layer's product for the gradient of its input also applies the derivative of this
    ReLU, and sums the gradient of this bias. It writes into an array of this stage, since the next layer still needs
    the output. If the last layer has no activation, its product for the gradient of its weights sums that of its bias.
    Where the library has no such product, a product and a kernel do the same, as in a :class:`DenseStage`.

    Attributes
    ----------
    before : EpilogueStage or None
        The stage whose output is the input of this one.
    masked : bool
        Whether the mask says where the output is positive.
    """

    before: EpilogueStage | None = None

    def __init__(self, path: tuple[str, ...], layer: Dense, learns: bool, space: Workspace) -> None:
        super().__init__(path, layer, learns, space)
        self.masked = self.sums_with_weights = False
        self.apart = len(self.tiles) == 1 and not space.keeps_gradients

    def largest_tile(self) -> int:
        return 0 if self.apart else super().largest_tile()

    def plan(self, gradient: Array) -> None:
        """Take memory; the sums, which the next layer writes, must not be in memory that all stages share."""
        super().plan(self.space.empty(super().largest_tile()) if self.apart else gradient)
        if self.applied == "relu":
            shape = self.space.batch_size, self.W.shape[1]
            self.all_masks, self.gradients = self.space.epilogues.new_mask(*shape), self.space.empty(*shape)

    def resize(self, n: int) -> None:
        super().resize(n)
        if self.applied == "relu":
            self.mask, self.G = self.all_masks[:n], self.gradients[:n]

    def forward(self, X: Array, noise: Any) -> Array:
        self.X, products = X, self.space.epilogues
        self.masked = self.applied == "relu" and products.relu(X, self.W, self.w0, self.Z, self.mask)
        if self.masked or (self.applied == "linear" and products.linear(X, self.W, self.w0, self.Z)):
            return self.Y
        return super().forward(X, noise)

    def activation_gradient(self, grad: Array) -> Array:
        if self.masked and grad is self.G:  # the product that wrote it has applied the derivative
            return grad
        whole = [columns for columns, *_ in self.jobs] == [None]
        self.sums_with_weights = self.applied == "linear" and grad is self.Z and whole
        return grad if self.sums_with_weights else super().activation_gradient(grad)

    def input_gradient(self, grad: Array) -> Array:
        before, ends_in = self.before, self.space.epilogues.relu_backward
        if before is None or not before.masked or not ends_in(grad, self.W, before.mask, before.G, before.grad_w0):
            return super().input_gradient(grad)
        return before.G

    def weight_gradient(self, grad: Array, out: Array) -> None:
        if not self.sums_with_weights:
            super().weight_gradient(grad, out)
        elif not self.space.epilogues.weights_backward(self.X, grad, out, self.grad_w0):
            self.apply_backward(grad, self.Z, self.grad_w0)
            super().weight_gradient(grad, out)


def linked(stages: Iterable[Stage]) -> Iterator[Stage]:
    """Yield the stages, each dense one linked to a dense one before it."""
    before = None
    for stage in stages:
        if isinstance(stage, EpilogueStage) and isinstance(before, EpilogueStage):
            stage.before = before
        before = stage
        yield stage
