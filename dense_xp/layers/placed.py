"""The backend of a layer, its arrays, and its initialization."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np

from dense_xp.backend import Array, Backend, get_backend, resolve, to_numpy
from dense_xp.layers.configured import Configured
from dense_xp.layers.contract import Contract, with_inner
from dense_xp.learning import loss_scaling
from dense_xp.learning.optimizer import Optimizer
from dense_xp.learning.optimizers import as_optimizer
from dense_xp.support.dtypes import is_floating
from dense_xp.support.seeds import as_rng
from dense_xp.support.trees import Params, flatten, merged, moved, on_host, unflatten


class Placed(Configured):
    """A layer with a backend and arrays; see :class:`~dense_xp.layers.layer.Layer`."""

    # Class-level defaults: a subclass that never calls super().__init__() still has them.
    optimizer: Optimizer | None = None
    steps: int = 0
    loss_scale: tuple[float, float] = loss_scaling.INITIAL  # of a training in float16
    _params: Params = {}  # noqa: RUF012 - replaced as a whole, never written into
    _optimizer_state: Params = {}  # noqa: RUF012

    # ------------------------------------------------------------------ initialization

    def initialize(self, optimizer: Any = None) -> None:
        """Fix the backend, draw the parameters, and give each its own copy of the optimizer.

        Parameters
        ----------
        optimizer : Optimizer or str or object, optional
            An optimizer, its name (``"adam"``), or any object with ``update(weights, grad) -> weights``.
            Without one the layer can compute but not learn.

        Raises
        ------
        RuntimeError
            If the input shape is not known.
        BackendError
            If the backend cannot be used. The layer is left as it was.
        """
        self.build(optimizer)

    def build(self, optimizer: Any = None, params: Params | None = None) -> None:
        """Initialize the layer as :meth:`initialize` does, with given parameters or drawn ones.

        Parameters
        ----------
        optimizer : Optimizer or str or object, optional
            As in :meth:`initialize`.
        params : dict, optional
            Every parameter and buffer, on the host or on the device. Arrays that already fit are not copied.

        Raises
        ------
        ValueError
            If a name or a shape is not as in :meth:`param_shapes`. The layer is left as it was.
        """
        optimizer = as_optimizer(optimizer)
        backend = resolve(self.setting("backend"))
        backend.dtype(self.dtype)  # refused here if the backend does not have it
        rng = as_rng(self.setting("rng"))
        if params is not None:
            self.check_given(params)
        with backend.scope():
            placed = {
                name: backend.asarray(value, None if name in self.integers else self.dtype)
                for name, value in (self.init_params(rng) if params is None else params).items()
            }
            self.check_params(placed)
            state = self._fresh_state(optimizer, placed)
        self.settle(backend)
        self.rng = rng
        self._params, self._optimizer_state = placed, state
        self.optimizer, self.steps, self.loss_scale = optimizer, 0, loss_scaling.INITIAL

    def build_for(self, X: Any, optimizer: Any = None) -> None:
        """Initialize a layer at its first batch, which gives the input shape if it is not known yet."""
        shape = np.shape(X) if isinstance(X, list | tuple) else tuple(getattr(X, "shape", ()))
        with unchanged_on_failure(self):
            if self.input_shape is None and shape:
                self.set_input_shape(shape[-1:])
            self.initialize(optimizer)

    def check_given(self, params: Params) -> None:
        """Raise ValueError unless these are arrays of the names, shapes and kinds that the layer has.

        Parameters
        ----------
        params : dict
            As for :meth:`build`.
        """
        shapes, given = flatten(self.param_shapes()), flatten(params)
        missing, unknown = sorted(set(shapes) - set(given)), sorted(set(given) - set(shapes))
        if missing or unknown:
            raise ValueError(f"these are not the weights of {self.layer_name()}: missing {missing}, unknown {unknown}")
        for name, shape in shapes.items():
            value = given[name] if hasattr(given[name], "dtype") else np.asarray(given[name], dtype="float64")
            if tuple(value.shape) != tuple(shape):
                raise ValueError(
                    f"the weight {name!r} has shape {tuple(value.shape)}, and the layer needs {tuple(shape)}"
                )
            if not self.children and is_floating(value) == (name in self.integers):
                kind = "integers" if name in self.integers else self.dtype
                raise ValueError(f"the weight {name!r} is {value.dtype}, and the layer needs {kind}")

    def check_params(self, params: Params) -> None:
        """Raise ValueError if the layer cannot use these parameters."""

    def settle(self, backend: Backend) -> None:
        """Set the backend; the caller places the arrays."""
        self.backend = backend

    def built(self) -> Backend:
        """Return the backend of an initialized layer.

        Raises
        ------
        RuntimeError
            If it is not initialized.
        """
        if self.backend is None:
            raise RuntimeError(f"{self.layer_name()} is not initialized: call initialize(optimizer) first")
        return self.backend

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which work on the layer's device runs; see :meth:`Backend.scope`."""
        return self.built().scope()

    def set_optimizer(self, optimizer: Any) -> None:
        """Give every parameter a fresh copy of another optimizer; the weights stay.

        Parameters
        ----------
        optimizer : Optimizer or str or object, optional
            As in :meth:`initialize`.
        """
        optimizer = as_optimizer(optimizer)
        with self.scope():
            self._optimizer_state = self._fresh_state(optimizer, self._params)
        self.optimizer, self.steps, self.loss_scale = optimizer, 0, loss_scaling.INITIAL

    def _fresh_state(self, optimizer: Optimizer | None, params: Params) -> Params:
        if optimizer is None:
            return {}
        return {key: optimizer.init(value) for key, value in params.items() if key not in self.buffers}

    # ------------------------------------------------------------------ weights

    @property
    def params(self) -> Params:
        """The arrays that :meth:`forward` reads; replaced as a whole, never written into."""
        return self._params

    @params.setter
    def params(self, params: Params) -> None:
        self._params = params

    @property
    def optimizer_state(self) -> Params:
        """The optimizer's state for each parameter, under the same keys."""
        return self._optimizer_state

    @optimizer_state.setter
    def optimizer_state(self, state: Params) -> None:
        self._optimizer_state = state

    def optimizer_of(self, name: str) -> Any:
        """Return the optimizer of one parameter, with its state: a copy, or the object itself if it is foreign.

        Parameters
        ----------
        name : str
            As in :attr:`optimizer_state`.

        Returns
        -------
        Optimizer or object or None
            Its ``update(weights, grad)`` would take the next step; None without an optimizer or such a parameter.
        """
        state = self.optimizer_state.get(name)
        if self.optimizer is None or state is None:
            return None
        return self.optimizer.for_parameter(name).resumed(state, self.steps)

    def parameters(self) -> int:
        """Count the scalars of the parameters.

        Returns
        -------
        int
            Buffers not counted.

        Raises
        ------
        RuntimeError
            If the layer has parameters and is not initialized yet.
        """
        if self.backend is None and type(self).init_params is not Contract.init_params:
            raise RuntimeError(f"{self.layer_name()} has no parameters yet: call initialize(optimizer) first")
        return sum(math.prod(value.shape) for key, value in self._params.items() if key not in self.buffers)

    @property
    def weights(self) -> dict[str, Array]:
        """Every parameter and buffer by name, on the layer's device; layers within layers as ``"dense.W"``."""
        return flatten(self.params)

    def set_weights(self, weights: Mapping[str, Any]) -> None:
        """Replace parameters and buffers by copies of these.

        Parameters
        ----------
        weights : mapping of str to array_like
            Under the names in :attr:`weights`; names that are left out keep their value. Host arrays are
            moved to the layer's device and given its dtype.

        Raises
        ------
        ValueError
            If a name or a shape does not fit. Then nothing is replaced.
        RuntimeError
            If the layer is not initialized.
        """
        backend, current = self.built(), self.weights
        if unknown := [name for name in weights if name not in current]:
            raise ValueError(f"{self.layer_name()} has no weights {unknown}; it has {list(current)}")
        placed: dict[str, Array] = {}
        for name, given in weights.items():
            old, value, called = current[name], to_numpy(given), f"{self.layer_name()}.{name}"
            if value.shape != tuple(old.shape):
                raise ValueError(f"{called} has shape {tuple(old.shape)}, and the new value has {value.shape}")
            if value.dtype.kind not in "biuf":
                raise TypeError(f"{called} must hold real numbers, not {value.dtype}")
            with backend.scope():
                placed[name] = backend.asarray(value.copy(), self.dtype if is_floating(old) else None)
            if placed[name].dtype != old.dtype:
                raise TypeError(
                    f"{called} holds {old.dtype}, and the new value {placed[name].dtype}: integers are not rounded "
                    "here; quantize(layer) makes them from floating-point weights"
                )
        self.params = merged(self.params, unflatten(placed))

    def to(self, backend: Any) -> Self:
        """Move the layer to another backend, parameters and optimizer state included.

        Parameters
        ----------
        backend : str or module or Backend
            Where to.

        Returns
        -------
        Layer
            This same layer.
        """
        target = get_backend(backend)
        if self.backend is not None:
            target.dtype(self.dtype)
            self._move(target)
        self.settings = replace(self.settings, backend=target)
        return self

    def _move(self, target: Backend) -> None:
        with target.scope():
            params, state = moved(self.params, target, self.dtype), moved(self.optimizer_state, target, None)
        self.params, self.optimizer_state = params, state
        self.settle(target)

    # ------------------------------------------------------------------ pickling

    def __getstate__(self) -> dict[str, Any]:
        # arrays travel as NumPy's, which every machine reads
        state = dict(vars(self))
        for key in ("_params", "_optimizer_state"):
            if self.backend is not None and key in state:
                state[key] = on_host(state[key])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.backend is not None:
            self._move(self.backend)


@contextlib.contextmanager
def unchanged_on_failure(model: Any) -> Iterator[None]:
    """Restore the attributes of a model and its layers if the block raises an error."""
    before = [(layer, dict(vars(layer))) for layer in with_inner(model)]
    try:
        yield
    except BaseException:
        for layer, attributes in before:
            now = vars(layer)
            now.update(attributes)
            for name in now.keys() - attributes.keys():
                del now[name]
        raise


def build_with(layer: Any, optimizer: Any, params: Params | None) -> None:
    """Build a layer with given or drawn parameters, through ``initialize`` if its class overrides that."""
    if params is None:
        layer.initialize(optimizer)
    elif type(layer).initialize is Placed.initialize:
        layer.build(optimizer, params)
    else:
        settings = layer.settings
        layer.settings = replace(settings, rng=0)  # these draws must not advance the user's generator
        layer.initialize(optimizer)
        layer.settings = settings
        layer.rng = as_rng(layer.setting("rng"))
        if params:
            layer.set_weights(flatten(params))
