"""Parameters that are updated together, in one array."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from array_api_compat import array_namespace, device

from dense_xp.backend import Array, to_numpy
from dense_xp.support.trees import Params, copied
from dense_xp.training.fused.workspace import Workspace


class Block:
    """Parameters with the same number of columns, one above the other in one array, and their state alike.

    All of them decay, or none does.
    """

    def __init__(self, params: Params, state: Params, space: Workspace) -> None:
        self.names = tuple(params)
        self.update = space.update
        self.decays = space.update.decays(self.names[0])
        self.values = stacked([params[name] for name in self.names], space)
        self.shape = tuple(self.values.shape)
        self.state = [stacked([state[name][slot] for name in self.names], space) for slot in space.update.slots]
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

    def move_into(self, values: Array, state: Sequence[Array]) -> None:
        """Move into these flat arrays."""
        for new, old in zip((values, *state), (self.values, *self.state), strict=True):
            new[...] = old.reshape(-1)
        self.values = values.reshape(self.shape)
        self.state = [array.reshape(self.shape) for array in state]

    def params(self) -> Params:
        """Return copies of the parameters, by name."""
        return {name: copied(self.values[rows, ...]) for name, rows in self.rows.items()}

    def optimizer_state(self) -> Params:
        """Return copies of their states, by name."""
        state: Params = {}
        for name, rows in self.rows.items():
            state[name] = {
                slot: copied(array[rows, ...]) for slot, array in zip(self.update.slots, self.state, strict=True)
            }
            if self.has_steps:
                xp = array_namespace(self.values)
                state[name]["steps"] = xp.asarray(self.steps, dtype=self.values.dtype, device=device(self.values))
        return state


def stacked(arrays: Sequence[Array], space: Workspace) -> Array:
    """Copy arrays into one, one above the other."""
    stack = space.empty(sum(array.shape[0] for array in arrays), *arrays[0].shape[1:])
    start = 0
    for array in arrays:
        stack[start : start + array.shape[0], ...] = array
        start += array.shape[0]
    return stack
