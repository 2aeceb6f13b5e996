"""Each set of kernels, and the backend on whose arrays it works."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from dense_xp.backend import Backend, BackendError, get_backend
from dense_xp.training import averaging, feeding, predictor, recorded, samples
from dense_xp.training.fused import workspace
from tests.conftest import REQUIRED
from tests.stand_ins import cuda_on_host, cupy_on_host

KERNEL_SETS = ("numpy", "numba", "torch", "cupy", "cupy-on-the-host")


def kernel_set(name: str) -> tuple[ModuleType, Backend]:
    """Return the kernels and their backend, or skip the test that asks for them, unless they must be there."""
    if name == "cupy-on-the-host":
        if cupy_on_host.COMPILER is None:
            pytest.skip("there is no C++ compiler")
        return cuda_on_host.kernels(), cuda_on_host.backend()
    if name not in REQUIRED:
        pytest.importorskip(name)
    try:
        backend = get_backend("numpy" if name == "numba" else name)
    except BackendError as error:
        if name in REQUIRED:
            raise
        pytest.skip(str(error))
    return importlib.import_module(f"dense_xp.kernels.{name}"), backend


def used_by_trainings(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every training use these kernels, and the lane that belongs to them."""
    for user in (workspace, recorded, predictor, feeding, averaging):
        monkeypatch.setattr(user, "kernels_for", lambda family: module)
    if hasattr(module, "lane"):  # of the stand-in
        for user in (samples, feeding):
            monkeypatch.setattr(user, "lane_for", lambda family, device: module.lane(device))
