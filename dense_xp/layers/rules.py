"""Penalties and constraints on the weights of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from dense_xp.backend import Array
from dense_xp.layers.contract import is_pure
from dense_xp.layers.placed import Placed
from dense_xp.learning.constraints import CONSTRAINTS, Constraint
from dense_xp.learning.regularizers import REGULARIZERS, Regularizer
from dense_xp.support.dtypes import in_dtype, widened
from dense_xp.support.registry import Registry, settings_of
from dense_xp.support.trees import Params

_KINDS: Mapping[str, Registry[Any]] = {"regularizers": REGULARIZERS, "constraints": CONSTRAINTS}


class Ruled(Placed):
    """A placed layer with rules for its parameters; see :class:`~dense_xp.layers.layer.Layer`."""

    regularizers: Mapping[str, Regularizer] = {}
    constraints: Mapping[str, Constraint] = {}

    # ------------------------------------------------------------------ the pure half

    def penalty(self, params: Params) -> Array | None:
        """Return what the parameters add to the loss, as a 0-d array; None if there are no penalties.

        Parameters
        ----------
        params : dict
            As from :meth:`init_params`, on the device.
        """
        terms = [rule.penalty(widened(params[name])) for name, rule in self.regularizers.items()]
        return sum(terms[1:], terms[0]) if terms else None

    def with_penalty(self, params: Params, grads: Params) -> Params:
        """Return the gradients of the loss with those of the penalty added.

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
        """Return the parameters with the constraints applied, after a step of the optimizer.

        Parameters
        ----------
        params : dict
            As the optimizer left them.
        """
        if not self.constraints:
            return params
        held = {name: rule(widened(params[name])) for name, rule in self.constraints.items()}
        return {**params, **{name: in_dtype(value, params[name].dtype) for name, value in held.items()}}

    # ------------------------------------------------------------------ adding rules

    def regularized(self, **regularizers: Any) -> Self:
        """Add penalties on this layer's parameters to the loss, and return the layer.

        The penalty is part of the loss in ``fit`` and ``evaluate``, unless the layer is frozen; its gradient is part
        of the gradient that the optimizer gets, also in ``backward_pass``.

        Parameters
        ----------
        **regularizers : Regularizer or str
            For each parameter by name: ``W=L2(1e-4)``.

        Raises
        ------
        TypeError
            If one is not a regularizer, or the layer has no parameters of its own in its pure half.
        ValueError
            If the layer has no such parameter; if it is not initialized yet, ``initialize`` raises this.

        Examples
        --------
        >>> from dense_xp import L2, Dense
        >>> Dense(3, (2,)).regularized(W=L2(1e-4)).regularizers
        {'W': L2(factor=0.0001)}
        """
        return self._ruled("regularizers", regularizers)

    def constrained(self, **constraints: Any) -> Self:
        """Constrain parameters of this layer after each step of the optimizer, and return the layer.

        Values that are drawn, assigned or loaded stay as they are until the next step.

        Parameters
        ----------
        **constraints : callable or str
            For each parameter by name: ``W=MaxNorm(3.0)``, or a pure function of it.

        Raises
        ------
        TypeError, ValueError
            As :meth:`regularized`; or if one is not a function.

        Examples
        --------
        >>> from dense_xp import Dense, MaxNorm
        >>> Dense(3, (2,)).constrained(W=MaxNorm(3.0)).constraints
        {'W': MaxNorm(limit=3.0)}
        """
        return self._ruled("constraints", constraints)

    def _ruled(self, kind: str, given: Mapping[str, Any]) -> Self:
        rules = {name: _KINDS[kind].made(rule) for name, rule in given.items()}
        if rules and (self.children or not is_pure(self)):
            raise TypeError(
                f"{self.layer_name()} takes no {kind}: they are for layers with parameters of their own and a "
                "pure half; ask it of the layers inside, or write forward and backward"
            )
        if self.backend is not None:
            self._check_names(rules, self.params)
        setattr(self, kind, {**getattr(self, kind), **rules})
        return self

    def check_params(self, params: Params) -> None:
        """Refuse rules for parameters that the layer does not have."""
        super().check_params(params)
        self._check_names({**self.regularizers, **self.constraints}, params)

    def _check_names(self, rules: Mapping[str, Any], params: Params) -> None:
        names = [name for name in params if name not in self.buffers]
        if wrong := [name for name in rules if name not in names]:
            raise ValueError(
                f"{self.layer_name()} has no parameter {wrong[0]!r} to regularize or constrain; it has {names}"
            )

    # ------------------------------------------------------------------ configuration

    def get_config(self) -> dict[str, Any]:
        """Return what :meth:`from_config` needs to make the same layer, as plain Python values."""
        config = super().get_config()
        for kind, registry in _KINDS.items():
            if rules := getattr(self, kind):
                config[kind] = {name: registry.written(rule) for name, rule in rules.items()}
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a layer from what :meth:`get_config` returned; its weights are drawn anew.

        Parameters
        ----------
        config : mapping
            As returned by :meth:`get_config`, possibly through JSON.
        """
        arguments = settings_of(cls.__name__, config)
        rules = [settings_of(name, arguments.pop(name, {})) for name in ("regularizers", "constraints")]
        return super().from_config(arguments).regularized(**rules[0]).constrained(**rules[1])
