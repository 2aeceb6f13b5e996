"""What layers keep beside their params: saved and restored through two methods that they define.

A layer with only the stateful methods keeps its arrays where nothing else finds them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dense_xp.layers.contract import Contract, is_pure


def has_own_state(layer: Contract) -> bool:
    """Whether a layer defines ``get_state``."""
    return type(layer).get_state is not Contract.get_state


def own_states(model: Contract) -> dict[str, dict[str, Any]]:
    """Return copies of what the layers of a model keep beside their params, by their paths such as ``"inner.mine"``.

    Raises
    ------
    TypeError
        If ``get_state`` of a layer does not return arrays and numbers by name.
    """
    return {path: _checked(layer) for path, layer in _with_paths(model) if has_own_state(layer)}


def restore_own_states(model: Contract, states: Mapping[str, Mapping[str, Any]]) -> None:
    """Restore what each layer kept, from a copy.

    Raises
    ------
    ValueError
        If the states are not those of the model's layers.
    """
    layers = {path: layer for path, layer in _with_paths(model) if has_own_state(layer)}
    if set(layers) != set(states):
        raise ValueError(f"there is a state for the layers {sorted(states)}, and {sorted(layers)} have get_state")
    for path, layer in layers.items():
        layer.set_state(copy.deepcopy(dict(states[path])))


def closed_layers(model: Contract) -> list[str]:
    """Return the names of the layers that keep their arrays to themselves."""
    return [
        layer.layer_name()
        for _, layer in _with_paths(model)
        if not (layer.children or is_pure(layer) or has_own_state(layer))
        and type(layer).init_params is Contract.init_params
    ]


def how_to_open(names: list[str]) -> str:
    """Say what is missing in layers that keep their arrays to themselves."""
    return (
        f"{', '.join(names)} with only the stateful methods: write get_state, which returns arrays and numbers in a "
        "dict, and set_state(state), which takes them back; if there is nothing to keep, get_state returns {}"
    )


def refuse_closed(model: Contract, what: str) -> None:
    """Raise ValueError if a model has layers that keep their arrays to themselves.

    Parameters
    ----------
    model : Layer
        With all its layers.
    what : str
        What cannot keep such arrays, for the message: ``"a model file"``.
    """
    if names := closed_layers(model):
        raise ValueError(f"{what} cannot keep what is in {how_to_open(names)}")


def _with_paths(layer: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, layer
    for key, inner in layer.children.items():
        yield from _with_paths(inner, f"{path}.{key}" if path else key)


def _checked(layer: Any) -> dict[str, Any]:
    state = layer.get_state()
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise TypeError(
            f"{layer.layer_name()}.get_state returns a dict of arrays and numbers, and this is {state!r:.60}"
        )
    for key, value in state.items():
        known = isinstance(value, bool | int | float) or (hasattr(value, "shape") and hasattr(value, "dtype"))
        if not known or (isinstance(value, np.ndarray | np.generic) and value.dtype.kind not in "biuf"):
            raise TypeError(
                f"{layer.layer_name()}.get_state has {key!r}, which is neither an array nor a number: {value!r:.60}"
            )
    return copy.deepcopy(dict(state))
