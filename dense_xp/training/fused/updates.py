"""The kernel of an optimizer, with its constants for a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dense_xp.backend import Array
from dense_xp.learning.optimizer import Optimizer
from dense_xp.learning.optimizers import SGD, Adagrad, Adam, AdamW, Lion, RMSprop


class Update:
    """One optimizer's kernel, and its constants for a step."""

    def __init__(self, optimizer: Optimizer, kernels: Any) -> None:
        self.optimizer = optimizer
        self.slots, self.kernel, self.constants = _UPDATES[type(optimizer)](optimizer, kernels)
        self._last: tuple[Any, tuple[tuple[Any, ...], ...]] = (None, ())

    @staticmethod
    def serves(optimizer: Optimizer) -> bool:
        """Whether there is a kernel for this optimizer; a subclass may compute something else."""
        return type(optimizer) in _UPDATES

    def decays(self, name: str) -> bool:
        """Whether weight decay shrinks parameters of this name."""
        return bool(self.optimizer.for_parameter(name).weight_decay)

    def at(self, rate: float, steps: int, decays: bool) -> tuple[Any, ...]:
        """Return the kernel's constants for a learning rate and the number of steps, this one included."""
        if self._last[0] != (rate, steps):
            constants = self.constants(steps)
            decay = 1.0 - rate * self.optimizer.weight_decay
            self._last = ((rate, steps), ((rate, 1.0, *constants), (rate, decay, *constants)))
        return self._last[1][decays]


class RecordedUpdate(Update):
    """An update whose rate, decay and counts are numbers on the device, where a recorded step reads them."""

    def place(self, numbers: Array, counts: Sequence[int]) -> None:
        """Take numbers on the device; `counts` are the different numbers of steps that were made before."""
        self.on_device, self.counts, self.turn = numbers, list(counts), 0

    def next_numbers(self, rate: float) -> list[float]:
        """Return the values of those numbers for the next update."""
        self.turn += 1
        return [rate, 1.0 - rate * self.optimizer.weight_decay, *(float(count + self.turn) for count in self.counts)]

    def at(self, rate: float, steps: int, decays: bool) -> tuple[Any, ...]:
        """Return the constants, with the numbers on the device in place of what changes."""
        count = self.on_device[2 + self.counts.index(steps - self.turn)]
        return self.on_device[0], self.on_device[1] if decays else 1.0, *self.constants(count)


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
