"""The contract of a layer: pure functions inside, a thin stateful shell around them.

A kind of layer writes the pure half: :meth:`Layer.init_params`, :meth:`Layer.forward`,
:meth:`Layer.backward`, :meth:`Layer.output_shape`. They store nothing and write into no array that they
were given, so a whole training step can be compiled, checked or exported. :class:`Layer` builds the
stateful half on them, once for all: ``initialize``, ``forward_pass``, ``backward_pass``.

A layer may instead override the stateful methods alone, in whatever library it likes; everything that
drives layers then calls those.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from dense_xp.backend import Array, Backend, get_backend, resolve, to_numpy
from dense_xp.learning import loss_scaling
from dense_xp.learning.constraints import _CONSTRAINTS, Constraint, get_constraint
from dense_xp.learning.optimizers import Optimizer, apply_gradients, as_optimizer
from dense_xp.learning.regularizers import _REGULARIZERS, Regularizer, get_regularizer
from dense_xp.support.dtypes import in_dtype, is_floating, widened
from dense_xp.support.registry import described
from dense_xp.support.seeds import Rng, as_rng
from dense_xp.support.trees import Params, flatten, merged, moved, on_host, place, unflatten

_CLASSES: dict[str, type[Layer]] = {}


def layer_class(name: str, custom: Sequence[type[Layer]] = ()) -> type[Layer]:
    """Return the layer class of that name: one of the package's own, or of those in `custom`.

    Raises
    ------
    ValueError
        If there is none. Nothing is ever imported by name.
    """
    found = {cls.__name__: cls for cls in custom} | _CLASSES
    if name not in found:
        raise ValueError(f"unknown layer class {name!r}; a class of your own must be passed in custom=[...]")
    return found[name]


class Layer:
    """Base class of every layer.

    Parameters
    ----------
    input_shape : tuple of int, optional
        Shape of one sample: ``(n_features,)``. Without it, it comes from the previous layer or from the
        first batch.
    name : str, optional
        Name in summaries and in the names of weights; by default that of the class.
    dtype : str, optional
        Dtype of parameters and results: ``"float32"`` unless said otherwise.
    backend : str or module or Backend, optional
        Where the layer lives; by default the setting in force when it is initialized.
    rng : int or numpy.random.Generator, optional
        Source of the initial weights; by default NumPy's global state.

    Attributes
    ----------
    trainable : bool
        Whether ``backward_pass`` changes the parameters. True at first.
    backend : Backend or None
        Where the layer lives; None until it is initialized, and fixed from then on.
    regularizers : mapping of str to Regularizer
        What parameters add to the loss; see :meth:`regularized`.
    constraints : mapping of str to callable
        What parameters are held to after each step; see :meth:`constrained`.
    """

    # Class-level defaults: a subclass that never calls super().__init__() still has them.
    input_shape: tuple[int, ...] | None = None
    trainable: bool = True
    name: str | None = None
    backend: Backend | None = None
    optimizer: Optimizer | None = None
    steps: int = 0
    loss_scale: tuple[float, float] = loss_scaling.INITIAL  # of a training in float16
    regularizers: Mapping[str, Regularizer] = {}
    constraints: Mapping[str, Constraint] = {}

    buffers: ClassVar[tuple[str, ...]] = ()
    """Names of the params that no gradient moves: running statistics."""

    integers: ClassVar[tuple[str, ...]] = ()
    """Names of the buffers that hold integers, and so keep their own dtype: quantized weights."""

    _draws_noise: ClassVar[bool] = False  # whether the class writes draw_noise, and updated_buffers:
    _has_buffers: ClassVar[bool] = False  # two calls less where a whole pass takes two microseconds
    _params: Params = {}  # noqa: RUF012 - replaced as a whole, never written into
    _optimizer_state: Params = {}  # noqa: RUF012
    _own: Mapping[str, Any] = {"backend": None, "dtype": None, "rng": None}
    _inherited: Mapping[str, Any] = {}
    _dtype: Any = None  # the backend's dtype object
    _fast_type: Any = None  # arrays of this type and dtype, and of the shape of the last batch, need no checking
    _last_shape: Any = None
    _scoped: bool = False
    _rng: Rng = None
    _remembered: tuple[Params, Any, tuple[int, ...]] | None = None

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...] | None = None,
        name: str | None = None,
        dtype: str | None = None,
        backend: Any = None,
        rng: Any = None,
    ) -> None:
        if dtype is not None:
            if not isinstance(dtype, str):
                dtype = np.dtype(dtype).name
            if dtype not in ("float16", "bfloat16", "float32", "float64"):
                raise ValueError(f"dtype must be a real floating one such as 'float32', and is {dtype!r}")
        as_rng(rng)  # a wrong one is refused here, before anything is drawn
        self.name = name
        self._own = {"backend": backend, "dtype": dtype, "rng": rng}
        if input_shape is not None:
            self.set_input_shape(input_shape)

    # ------------------------------------------------------------------ the pure half, for subclasses

    def init_params(self, rng: Rng) -> Params:
        """Draw the initial parameters and buffers, as NumPy arrays on the host.

        Parameters
        ----------
        rng : numpy.random.Generator or the module numpy.random
            Source of random numbers; only what both have may be used.

        Returns
        -------
        dict of str to numpy.ndarray
            Everything that :meth:`forward` reads; empty if there is nothing to learn.
        """
        return {}

    def forward(self, params: Params, X: Array, *, training: bool = False, noise: Any = None) -> tuple[Array, Any]:
        """Compute the output from the input: a pure function.

        Parameters
        ----------
        params : dict
            As from :meth:`init_params`, on the device.
        X : array, shape (..., n_features)
            The batch.
        training : bool
            Whether this is a step of training (dropout, batch statistics).
        noise : object
            As from :meth:`draw_noise`, on the device.

        Returns
        -------
        Y : array
            The output.
        cache : object
            What :meth:`backward` and :meth:`updated_buffers` need.
        """
        raise NotImplementedError(
            f"{type(self).__name__} writes neither forward and backward (the pure half) "
            "nor forward_pass and backward_pass (the stateful half): write one of the pairs"
        )

    def backward(self, params: Params, cache: Any, grad_Y: Array) -> tuple[Array, Params]:
        """Pull a gradient back through :meth:`forward`: a pure function.

        Parameters
        ----------
        params, cache
            Those of the forward call.
        grad_Y : array
            Gradient of the loss with respect to the output.

        Returns
        -------
        grad_X : array
            Gradient with respect to the input.
        grads : dict
            Gradient with respect to each parameter, under the same keys (none for buffers).
        """
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def parameter_gradients(self, params: Params, cache: Any, grad_Y: Array) -> Params:
        """Return the second half of :meth:`backward`; a first layer need not compute the other half.

        Parameters
        ----------
        params, cache, grad_Y
            As in :meth:`backward`.
        """
        return self.backward(params, cache, grad_Y)[1]

    def updated_buffers(self, cache: Any) -> Params:
        """Return the new values of the buffers after a forward call in training.

        Parameters
        ----------
        cache : object
            That of the forward call.
        """
        return {}

    def draw_noise(self, rng: Rng, batch_shape: tuple[int, ...]) -> Any:
        """Draw on the host the random numbers that one training step on such a batch needs.

        They are an input of the step, so that it stays a function of arrays and every backend sees the
        same bits.

        Parameters
        ----------
        rng : numpy.random.Generator or the module numpy.random
            Source of random numbers; only what both have may be used.
        batch_shape : tuple of int
            Shape of the layer's input.

        Returns
        -------
        numpy.ndarray or dict or None
            None if the layer needs none.
        """
        return None

    def penalty(self, params: Params) -> Array | None:
        """Return what the parameters add to the loss, as a 0-d array; None if nothing is asked of them.

        Parameters
        ----------
        params : dict
            As from :meth:`init_params`, on the device.
        """
        terms = [rule.penalty(widened(params[name])) for name, rule in self.regularizers.items()]
        return sum(terms[1:], terms[0]) if terms else None

    def with_penalty(self, params: Params, grads: Params) -> Params:
        """Return the gradients of the loss with the penalty in it, from those of the loss without it.

        Parameters
        ----------
        params, grads : dict
            The parameters, and the gradient with respect to each.
        """
        if not self.regularizers:
            return grads
        added = {name: rule.gradient(widened(params[name])) for name, rule in self.regularizers.items()}
        return {
            name: in_dtype(widened(grad) + added[name], grad.dtype) if name in added else grad
            for name, grad in grads.items()
        }

    def allowed(self, params: Params) -> Params:
        """Return the parameters where the constraints want them, after a step of the optimizer.

        Parameters
        ----------
        params : dict
            As the optimizer left them.
        """
        if not self.constraints:
            return params
        held = {name: rule(widened(params[name])) for name, rule in self.constraints.items()}
        return {**params, **{name: in_dtype(value, params[name].dtype) for name, value in held.items()}}

    def output_shape(self) -> tuple[int, ...]:
        """Return the shape of one output sample; by default that of the input.

        Raises
        ------
        RuntimeError
            If it is not known yet.
        """
        return self._known_input_shape()

    # ------------------------------------------------------------------ the stateful half

    def set_input_shape(self, shape: tuple[int, ...]) -> None:
        """Set the shape of one sample.

        Parameters
        ----------
        shape : tuple of int
            ``(n_features,)``.

        Raises
        ------
        ValueError
            If it is not a tuple with one positive integer, or if the layer is initialized with another.
        """
        given: Any = shape if isinstance(shape, tuple | list) else (shape,)
        if len(given) != 1 or not all(isinstance(n, int | np.integer) and n > 0 for n in given):
            raise ValueError(
                f"input_shape must be (n_features,) with a positive integer, and is {shape!r}; "
                "the batch and other leading axes are not part of it"
            )
        shape = (int(given[0]),)
        if self._is_built() and self.input_shape not in (None, shape):
            raise ValueError(
                f"{self.layer_name()} is initialized for input_shape={self.input_shape}: make a new layer for {shape}"
            )
        self.input_shape = shape

    @property
    def children(self) -> Mapping[str, Layer]:
        """The layers inside this one, by name; empty for a layer with arrays of its own."""
        return {}

    def layer_name(self) -> str:
        """Return the name of the layer: its own, or that of its class."""
        return self.name or type(self).__name__

    @property
    def dtype(self) -> str:
        """Name of the dtype of parameters and results."""
        name: str = self._setting("dtype") or "float32"
        return name

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
        optimizer = as_optimizer(optimizer)
        backend = resolve(self._setting("backend"))
        dtype = backend.dtype(self.dtype)
        rng = as_rng(self._setting("rng"))
        with backend.scope():
            params = {
                key: backend.asarray(value, None if key in self.integers else self.dtype)
                for key, value in self.init_params(rng).items()
            }
            self._check_rules(params)
            state = self._fresh_state(optimizer, params)
        self._settle(backend, dtype)
        self._rng = None if rng is np.random else rng
        self._params, self._optimizer_state, self.optimizer = params, state, optimizer
        self.steps, self.loss_scale = 0, loss_scaling.INITIAL

    def _settle(self, backend: Backend, dtype: Any) -> None:
        self.backend, self._dtype, self._remembered, self._last_shape = backend, dtype, None, None
        self._scoped = backend.needs_scope
        self._fast_type = np.ndarray if backend.name == "numpy" else None

    def _in_place_of(self, other: Layer, params: Params) -> Self:
        """Be initialized where another layer is, with these arrays and no optimizer yet."""
        self._own, self._inherited, self._rng = other._own, other._inherited, other._rng
        self._settle(other._built(), other._dtype)
        self._params = params
        return self

    def set_optimizer(self, optimizer: Any) -> None:
        """Give every parameter a fresh copy of another optimizer; the weights stay.

        Parameters
        ----------
        optimizer : Optimizer or str or object, optional
            As in :meth:`initialize`.
        """
        optimizer = as_optimizer(optimizer)
        with self._built().scope():
            self._take_optimizer(optimizer)

    def _take_optimizer(self, optimizer: Optimizer | None) -> None:
        self._optimizer_state = self._fresh_state(optimizer, self._params)
        self.optimizer, self.steps, self.loss_scale = optimizer, 0, loss_scaling.INITIAL

    def _fresh_state(self, optimizer: Optimizer | None, params: Params) -> Params:
        if optimizer is None:
            return {}
        return {key: optimizer.init(value) for key, value in params.items() if key not in self.buffers}

    def parameters(self) -> int:
        """Count the scalars that training moves.

        Returns
        -------
        int
            Buffers not counted.

        Raises
        ------
        RuntimeError
            If the layer has parameters and is not initialized yet.
        """
        if not self._is_built() and type(self).init_params is not Layer.init_params:
            raise RuntimeError(f"{self.layer_name()} has no parameters yet: call initialize(optimizer) first")
        return sum(math.prod(value.shape) for key, value in self._params.items() if key not in self.buffers)

    def forward_pass(self, X: Any, training: bool = True) -> Array:
        """Compute the output, and remember what :meth:`backward_pass` needs.

        Parameters
        ----------
        X : array, shape (..., n_features), or nested lists of numbers
            The batch, on the layer's device; integers and other precisions become the layer's dtype.
        training : bool, default True
            Whether this is a step of training (dropout, batch statistics).

        Returns
        -------
        array
            The output, in the layer's dtype.

        Raises
        ------
        ValueError
            If the shape is wrong or the batch is empty.
        ForeignArrayError
            If the array belongs to another library or device.
        """
        if self.backend is None:
            self._build_from(X)
        if not (type(X) is self._fast_type and X.dtype is self._dtype and X.shape == self._last_shape):
            X = self._accept_batch(X)
            self._last_shape = X.shape
        if self._scoped:
            with self._scope():
                return self._forward(X, training)
        return self._forward(X, training)

    def _forward(self, X: Array, training: bool) -> Array:
        params = self.params
        noise = self._noise(X) if training and self._draws_noise else None
        Y, cache = self.forward(params, X, training=training, noise=noise)
        self._remembered = params, cache, Y.shape
        if training and self._has_buffers and (buffers := self.updated_buffers(cache)):
            self.params = merged(params, buffers)
        return Y

    def _noise(self, X: Array) -> Any:
        noise = self.draw_noise(np.random if self._rng is None else self._rng, tuple(X.shape))
        return None if noise is None else place(self._built(), noise)

    def backward_pass(self, accum_grad: Any) -> Array:
        """Pull a gradient back through the last forward pass, then update the parameters if trainable.

        Parameters
        ----------
        accum_grad : array of the output's shape, or nested lists of numbers
            Gradient of the loss with respect to the output.

        Returns
        -------
        array, shape of the input
            Gradient with respect to the input, through the parameters as they were in the forward pass.

        Raises
        ------
        RuntimeError
            If there was no forward pass, or the layer is to learn and has no optimizer.
        ValueError, ForeignArrayError
            If the gradient has the wrong shape or lives elsewhere. The layer is left as it was.
        """
        if self._remembered is None:
            raise RuntimeError(f"{self.layer_name()}: backward_pass needs a forward_pass before it")
        if self._scoped:
            with self._scope():
                return self._backward(accum_grad, *self._remembered)
        return self._backward(accum_grad, *self._remembered)

    def _backward(self, accum_grad: Any, params: Params, cache: Any, shape: tuple[int, ...]) -> Array:
        accum_grad = self._check_gradient(accum_grad, shape)
        grad_X, grads = self.backward(params, cache, accum_grad)
        if self.trainable and grads:
            self._apply(self.with_penalty(params, grads))
        return grad_X

    def _check_gradient(self, accum_grad: Any, shape: tuple[int, ...]) -> Array:
        accum_grad = self._built().accept(accum_grad, self._dtype, "accum_grad")
        if tuple(accum_grad.shape) != tuple(shape):
            raise ValueError(
                f"{self.layer_name()}: accum_grad has shape {tuple(accum_grad.shape)}, "
                f"and the output of the forward pass had {tuple(shape)}"
            )
        return accum_grad

    def _apply(self, grads: Params) -> None:
        if self.optimizer is None:
            raise RuntimeError(
                f"{self.layer_name()} has no optimizer: call initialize(optimizer) before it is to learn, "
                "or set trainable = False"
            )
        rate = self._rate()
        clipped = self.optimizer.clip(grads)
        params, state = apply_gradients(self.optimizer, self.params, clipped, self.optimizer_state, rate)
        self.params, self.optimizer_state = self.allowed(params), state
        self.steps += 1

    def _rate(self) -> float:
        """Return the learning rate of the next step."""
        assert self.optimizer is not None
        return self.optimizer.learning_rate_at(self.steps)

    # ------------------------------------------------------------------ what is asked of parameters

    def regularized(self, **regularizers: Any) -> Self:
        """Let parameters add a penalty of their own to the loss.

        The penalty is part of the loss that ``fit`` reports and ``evaluate`` measures, unless the layer is
        frozen; its gradient is part of that which the optimizer sees, also in ``backward_pass``.

        Parameters
        ----------
        **regularizers : Regularizer or str
            For each parameter by name: ``W=L2(1e-4)``.

        Returns
        -------
        Layer
            This same layer.

        Raises
        ------
        TypeError
            If one is no regularizer, or the layer is none that has parameters of its own in its pure half.
        ValueError
            If the layer has no such parameter; before it is initialized, ``initialize`` says so.

        Examples
        --------
        >>> from dense_xp import L2, Dense
        >>> Dense(3, (2,)).regularized(W=L2(1e-4)).regularizers
        {'W': L2(factor=0.0001)}
        """
        rules = {name: get_regularizer(rule) for name, rule in regularizers.items()}
        self._add_rules("regularizers", rules)
        return self

    def constrained(self, **constraints: Any) -> Self:
        """Hold parameters to a set; they are put back into it after each step of the optimizer.

        What is drawn, assigned or loaded stays as it is until then.

        Parameters
        ----------
        **constraints : callable or str
            For each parameter by name: ``W=MaxNorm(3.0)``, or a pure function of it.

        Returns
        -------
        Layer
            This same layer.

        Raises
        ------
        TypeError
            If one is no function, or the layer is none that has parameters of its own in its pure half.
        ValueError
            If the layer has no such parameter; before it is initialized, ``initialize`` says so.

        Examples
        --------
        >>> from dense_xp import Dense, MaxNorm
        >>> Dense(3, (2,)).constrained(W=MaxNorm(3.0)).constraints
        {'W': MaxNorm(limit=3.0)}
        """
        rules = {name: get_constraint(rule) for name, rule in constraints.items()}
        self._add_rules("constraints", rules)
        return self

    def _add_rules(self, kind: str, rules: Mapping[str, Any]) -> None:
        if rules and (self.children or not is_pure(self)):
            raise TypeError(
                f"{self.layer_name()} takes no {kind}: they are for layers with parameters of their own and a "
                "pure half; ask it of the layers inside, or write forward and backward"
            )
        if self._is_built():
            self._check_rules(self.params, rules)
        setattr(self, kind, {**getattr(self, kind), **rules})

    def _check_rules(self, params: Params, rules: Mapping[str, Any] | None = None) -> None:
        names = [name for name in params if name not in self.buffers]
        for name in {**self.regularizers, **self.constraints} if rules is None else rules:
            if name not in names:
                raise ValueError(
                    f"{self.layer_name()} has no parameter {name!r} to regularize or constrain; it has {names}"
                )

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
        backend, current = self._built(), self.weights
        if unknown := [name for name in weights if name not in current]:
            raise ValueError(f"{self.layer_name()} has no weights {unknown}; it has {list(current)}")
        new = {name: to_numpy(value) for name, value in weights.items()}
        for name, value in new.items():
            if value.shape != tuple(current[name].shape):
                raise ValueError(
                    f"{self.layer_name()}.{name} has shape {tuple(current[name].shape)}, "
                    f"and the new value has {value.shape}"
                )
            if value.dtype.kind not in "biuf":
                raise TypeError(f"{self.layer_name()}.{name} must hold real numbers, not {value.dtype}")
        with backend.scope():
            placed = {
                name: backend.asarray(value.copy(), self.dtype if is_floating(current[name]) else None)
                for name, value in new.items()
            }
        for name, array in placed.items():
            if not is_floating(current[name]) and array.dtype != current[name].dtype:
                raise TypeError(
                    f"{self.layer_name()}.{name} holds {current[name].dtype}, and the new value {array.dtype}: "
                    "integers are not rounded here; quantize(layer) makes them from floating-point weights"
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
            dtype = target.dtype(self.dtype)
            with target.scope():
                params = moved(self.params, target, self.dtype)
                state = moved(self.optimizer_state, target, None)
            self.params, self.optimizer_state = params, state
            self._settle(target, dtype)
        self._own = {**self._own, "backend": target}
        return self

    # ------------------------------------------------------------------ configuration

    def get_config(self) -> dict[str, Any]:
        """Return what :meth:`from_config` needs to make the same layer, as plain Python values."""
        own = self._own
        backend = own["backend"]
        config = {
            "input_shape": self.input_shape,
            "name": self.name,
            "dtype": own["dtype"],
            "backend": backend if backend is None or isinstance(backend, str) else get_backend(backend).spec,
            "rng": own["rng"] if isinstance(own["rng"], int) else None,
        }
        if not self.trainable:
            config["trainable"] = False
        for kind, table in (("regularizers", _REGULARIZERS), ("constraints", _CONSTRAINTS)):
            if rules := getattr(self, kind):
                config[kind] = {name: described(table, rule) for name, rule in rules.items()}
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a layer from what :meth:`get_config` returned; its weights are drawn anew.

        Parameters
        ----------
        config : mapping
            As returned by :meth:`get_config`, or that through JSON.
        """
        arguments = dict(config)
        trainable = arguments.pop("trainable", True)
        regularizers, constraints = arguments.pop("regularizers", {}), arguments.pop("constraints", {})
        shape = arguments.get("input_shape")
        if shape is not None:
            arguments["input_shape"] = tuple(shape)  # JSON makes lists of tuples
        layer = cls(**arguments)
        layer.trainable = trainable
        return layer.regularized(**regularizers).constrained(**constraints)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._draws_noise = cls.draw_noise is not Layer.draw_noise
        cls._has_buffers = cls.updated_buffers is not Layer.updated_buffers
        if cls.__module__.startswith("dense_xp."):
            _CLASSES[cls.__name__] = cls

    def __getstate__(self) -> dict[str, Any]:
        # arrays travel as NumPy's, which every machine reads; the last batch is no part of the layer
        state = {key: value for key, value in vars(self).items() if key not in ("_remembered", "_dtype", "_last_shape")}
        if self.backend is not None:
            for key in ("_params", "_optimizer_state"):
                if key in state:
                    state[key] = on_host(state[key])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.backend is not None:
            with self._scope():
                self._dtype = self.backend.dtype(self.dtype)
                self._params = moved(self._params, self.backend, self.dtype)
                self._optimizer_state = moved(self._optimizer_state, self.backend, None)

    def __repr__(self) -> str:
        defaults = {**inspect.signature(Layer).parameters, **inspect.signature(type(self)).parameters}
        said = [
            f"{key}={value!r}"
            for key, value in self.get_config().items()
            if key not in defaults or value != defaults[key].default
        ]
        return f"{type(self).__name__}({', '.join(said)})"

    # ------------------------------------------------------------------ the checks behind them

    def _setting(self, key: str) -> Any:
        """Return the layer's own setting, else that of the model it is part of."""
        own = self._own[key]
        return self._inherited.get(key) if own is None else own

    def _is_built(self) -> bool:
        return self.backend is not None

    def _built(self) -> Backend:
        if self.backend is None:
            raise RuntimeError(f"{self.layer_name()} is not initialized: call initialize(optimizer) first")
        return self.backend

    def _scope(self) -> contextlib.AbstractContextManager[Any]:
        return self._built().scope()

    def _connect(self) -> None:
        """Pass the input shape on to layers inside this one, if it has any."""

    def _known_input_shape(self) -> tuple[int, ...]:
        if self.input_shape is None:
            raise RuntimeError(
                f"{self.layer_name()} does not know its input shape: pass input_shape=(n_features,), "
                "call set_input_shape, or show it a first batch with forward_pass"
            )
        return self.input_shape

    def _build_from(self, X: Any, optimizer: Any = None) -> None:
        """Initialize a layer that was shown a batch first: its shape, if need be, is that of the batch."""
        known = self.input_shape
        shape = np.shape(X) if isinstance(X, list | tuple) else tuple(getattr(X, "shape", ()))
        if known is None and shape:
            self.set_input_shape(shape[-1:])
        try:
            self.initialize(optimizer)
        except Exception:
            self.input_shape = known
            raise

    def _accept_batch(self, X: Any) -> Array:
        X = self._built().accept(X, self._dtype)
        shape = tuple(X.shape)
        if not shape or (self.input_shape is not None and shape[-1:] != self.input_shape):
            expected = "n_features" if self.input_shape is None else self.input_shape[0]
            raise ValueError(
                f"X has shape {shape} and {self.layer_name()} expects (..., {expected}): "
                "the last axis holds the features"
            )
        if 0 in shape:
            raise ValueError(
                f"X has shape {shape}: the batch is empty. Skip empty batches; the pure forward(params, X) accepts them"
            )
        return X


def with_inner(layer: Layer) -> Iterator[Layer]:
    """Yield a layer and all layers inside it, however deep."""
    yield layer
    for inner in layer.children.values():
        yield from with_inner(inner)


def is_pure(layer: Layer) -> bool:
    """Whether the pure half describes what the stateful methods do, so that a step may be compiled.

    It does not for a class that writes no pure half, or that overrides ``forward_pass`` or
    ``backward_pass`` further down than the pure function that it rests on.
    """
    kind: Any = type(layer)
    return _is_pure_class(kind) and all(map(is_pure, layer.children.values()))


@functools.cache
def _is_pure_class(kind: type[Layer]) -> bool:
    def definer(method: str) -> type:
        return next(cls for cls in kind.__mro__ if method in vars(cls))

    return (
        kind.forward is not Layer.forward
        and issubclass(definer("forward"), definer("forward_pass"))
        and issubclass(definer("backward"), definer("backward_pass"))
    )
