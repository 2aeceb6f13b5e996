"""Foreign optimizers: any objects with an ``update`` method."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from array_api_compat import array_namespace, is_array_api_obj, is_numpy_namespace

from dense_xp.backend import Array
from dense_xp.learning.optimizer import Optimizer
from dense_xp.support.dtypes import in_dtype

_REMEDY = (
    ". Here weights and gradients are arrays of {}: take functions from array_api_compat.array_namespace(weights) "
    "in place of those of numpy, or make the model with backend='numpy'"
)


class ForeignOptimizer(Optimizer):
    """Any object with ``update(weights, grad) -> weights``; each parameter has a copy of it as its state.

    As the object may do anything, a step with it is never compiled, and it gets a copy of the weights to write into.
    """

    traceable: ClassVar[bool] = False

    def __init__(self, optimizer: Any) -> None:
        super().__init__()
        self.optimizer = optimizer

    def init(self, param: Array) -> Any:
        """Return a copy of the object."""
        return copy.deepcopy(self.optimizer)

    def step(self, param: Array, grad: Array, state: Any, learning_rate: Any = None) -> tuple[Array, Any]:
        """Let the object move the parameter, and check what it returns."""
        xp = array_namespace(param)
        name = f"{type(state).__name__}.update"
        library = xp.__name__.removeprefix("array_api_compat.").partition(".")[0]
        remedy = "" if is_numpy_namespace(xp) else _REMEDY.format(library)
        try:
            new = state.update(xp.asarray(param, copy=True), grad)
        except (TypeError, AttributeError, ValueError, RuntimeError) as error:
            if not remedy:
                raise
            raise TypeError(f"{name} failed, perhaps because it is for NumPy{remedy}. It said: {error}") from error
        if not is_array_api_obj(new) or array_namespace(new) is not xp:
            raise TypeError(f"{name} returned a {type(new).__name__}; it must return the new weights{remedy}")
        if tuple(new.shape) != tuple(param.shape):
            raise ValueError(f"{name} returned weights of shape {tuple(new.shape)} for {tuple(param.shape)}")
        if not xp.isdtype(new.dtype, ("integral", "real floating")):
            raise TypeError(f"{name} returned weights of dtype {new.dtype}; they must be real numbers")
        return in_dtype(new, param.dtype), state

    def resumed(self, state: Any, steps: int) -> Any:
        """Return the object itself, which keeps its own state."""
        return state

    def __repr__(self) -> str:
        return f"ForeignOptimizer({self.optimizer!r})"
