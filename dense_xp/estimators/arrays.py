"""Arrays as scikit-learn hands them on: on the host, or where its array API dispatch leaves them."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from array_api_compat import is_array_api_obj
from sklearn import get_config
from sklearn.utils import check_array

from dense_xp.backend import Backend, backend_of, get_backend, to_numpy


def dispatches(X: Any) -> bool:
    """Whether scikit-learn leaves X in its own library."""
    return bool(get_config()["array_api_dispatch"]) and is_array_api_obj(X)


def home_of(X: Any) -> Backend:
    """Return the backend of X after scikit-learn's validation."""
    return (backend_of(X) if dispatches(X) else None) or get_backend("numpy")


def on_host(y: Any) -> Any:
    """Return an array on the host; anything else stays as it is."""
    return to_numpy(y) if is_array_api_obj(y) else y


def checked_weight(weight: Any, n: int) -> Any:
    """Return one weight for each of n samples, or None; ValueError if they cannot be weights."""
    if weight is None:
        return None
    if isinstance(weight, Real):
        return np.full(n, float(weight))
    weight = check_array(on_host(weight), ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    if weight.shape != (n,):
        raise ValueError(f"sample_weight has shape {weight.shape} and needs {(n,)}: one number for each sample")
    if (weight < 0).any() or not weight.any():
        raise ValueError("sample_weight must not be negative, nor zero for every sample")
    return weight


def taken(data: Any, rows: Any) -> Any:
    """Return some rows, on any backend."""
    backend = backend_of(data)
    if backend is None or backend.name == "numpy":
        return data[rows]
    with backend.scope():
        return backend.xp.take(data, backend.asarray(rows), axis=0)
