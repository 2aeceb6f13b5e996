"""Arrays in nested dicts: the params of a model, its optimizer state, its noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from array_api_compat import array_namespace

from dense_xp.backend import Array, Backend, to_numpy
from dense_xp.support.dtypes import is_floating

Params: TypeAlias = dict[str, Any]
"""Arrays by name; a layer made of layers nests one dict for each of them."""


def mapped(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply a function to every array in nested dicts, together with the values of others at the same path.

    Parameters
    ----------
    function : callable
        Called with an array, and the value at the same path in each of the others.
    tree : dict or array
        Gives the structure.
    *others : dict or array
        With all keys of `tree`.

    Examples
    --------
    >>> mapped(lambda a, b: a + b, {"dense": {"W": 1, "w0": 2}}, {"dense": {"W": 10, "w0": 20}})
    {'dense': {'W': 11, 'w0': 22}}
    """
    if isinstance(tree, dict):
        return {key: mapped(function, value, *(other[key] for other in others)) for key, value in tree.items()}
    return function(tree, *others)


def merged(params: Params, changes: Params) -> Params:
    """Return `params` with some entries replaced, at any depth; neither argument is changed."""
    return {
        **params,
        **{k: merged(params[k], v) if isinstance(v, dict) else v for k, v in changes.items()},
    }


def flatten(params: Params, prefix: str = "") -> dict[str, Array]:
    """Return ``{"a.b": x}`` for ``{"a": {"b": x}}``.

    Examples
    --------
    >>> flatten({"dense": {"W": 1, "w0": 2}})
    {'dense.W': 1, 'dense.w0': 2}
    """
    flat: dict[str, Array] = {}
    for key, value in params.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def unflatten(flat: Mapping[str, Array]) -> Params:
    """Undo :func:`flatten`.

    Examples
    --------
    >>> unflatten({"dense.W": 1, "dense.w0": 2})
    {'dense': {'W': 1, 'w0': 2}}
    """
    params: Params = {}
    for name, value in flat.items():
        *path, key = name.split(".")
        inner = params
        for step in path:
            inner = inner.setdefault(step, {})
        inner[key] = value
    return params


def copied(array: Array) -> Array:
    """Copy an array on its device."""
    return array_namespace(array).asarray(array, copy=True)


def copies(params: Params) -> Params:
    """Copy every array in nested dicts."""
    copy: Params = mapped(copied, params)
    return copy


def moved(tree: Any, target: Backend, dtype: str | None) -> Any:
    """Copy every array in nested dicts to another backend; integers, and what is not an array, stay as they are."""

    def one(value: Any) -> Any:
        if not hasattr(value, "dtype"):
            return value
        return target.asarray(value, dtype if dtype and is_floating(value) else None)

    return mapped(one, tree)


def on_host(tree: Any) -> Any:
    """Copy every array in nested dicts to NumPy; what is not an array stays as it is."""
    return mapped(lambda value: to_numpy(value) if hasattr(value, "dtype") else value, tree)


def place(backend: Backend, tree: Any) -> Any:
    """Put the host arrays in nested dicts on the device."""
    return mapped(backend.asarray, tree)


def at_path(tree: Any, path: tuple[str, ...]) -> Any:
    """Return the value at a path in nested dicts; None if there is none."""
    for key in path:
        if tree is None:
            return None
        tree = tree.get(key)
    return tree


def tree_of(leaves: Any) -> Params:
    """Return nested dicts from pairs of a path and a value; empty values are left out."""
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
