"""What the tests share: putting data on the backend under test, and comparing with what comes back."""

from __future__ import annotations

from typing import Any

import numpy as np

from dense_xp.backend import Backend, backend_of, to_numpy

UNIT_ROUNDOFF = {"float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}


def name_of(thing: Any) -> str:
    """Return what names a case: the same in every process, where repr tells an address."""
    return getattr(thing, "__name__", None) or repr(thing)


def assert_same_kind(actual: Any, backend: Backend, dtype: str, shape: tuple[int, ...]) -> None:
    """Namespace, device, dtype and shape, before any value is looked at."""
    assert backend_of(actual) == backend, f"on {backend_of(actual)}, not on {backend}"
    assert actual.dtype == backend.dtype(dtype), f"dtype {actual.dtype}, not {dtype}"
    assert tuple(actual.shape) == shape, f"shape {tuple(actual.shape)}, not {shape}"


def assert_close(actual: Any, desired: Any, backend: Backend, dtype: str = "float64", *, ulps: float = 64) -> None:
    """Equal to a NumPy reference within `ulps` unit round-offs of the largest entry, and of the same kind."""
    desired = np.asarray(desired, dtype="float64")
    assert_same_kind(actual, backend, dtype, desired.shape)
    actual = to_numpy(actual).astype("float64")
    assert np.all(np.isfinite(actual) == np.isfinite(desired))
    scale = max(1e-30, float(np.max(np.abs(desired), initial=0.0, where=np.isfinite(desired))))
    with np.errstate(invalid="ignore"):
        error = np.where(actual == desired, 0.0, np.abs(actual - desired))
    worst = float(np.max(error, initial=0.0))
    assert worst <= ulps * UNIT_ROUNDOFF[dtype] * scale, f"off by {worst:.3g} at scale {scale:.3g}"
