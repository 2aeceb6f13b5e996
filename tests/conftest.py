"""The backends under test: every one that this machine can run, the others skipped with their reason."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dense_xp import backend as backends
from dense_xp.backend import Backend, BackendError, backend as handle, get_backend, libraries, lookup

# the parity runs of these backends need float64, which JAX has only in its 64-bit mode
os.environ.setdefault("JAX_ENABLE_X64", "1")
# scikit-learn leaves arrays on their device only if this was set before SciPy was imported
os.environ.setdefault("SCIPY_ARRAY_API", "1")

# backends whose absence is a failure here, and not a reason to skip: "torch,jax"
REQUIRED = [name for name in os.environ.get("DENSE_XP_TEST_REQUIRES", "").split(",") if name]

ON_A_GPU = ("torch:cuda:0", "jax:gpu:0")  # demanded only where they are named in full

SPECS = (
    "numpy",
    "numpy-readonly",
    "array_api_strict",
    "array_api_strict:device1",
    "torch",
    "jax",
    "dpnp",
    "cupy",
    *ON_A_GPU,
)


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so it is in the background of a shell, and in all that we start
    signal.signal(signal.SIGINT, signal.default_int_handler)


class _ReadOnlyNumPy(libraries.NumPy):
    """NumPy whose host data arrive read-only, so that writing into an argument is an error."""

    def put(self, xp: Any, host: np.ndarray[Any, Any], device: Any) -> Any:
        array = np.array(host)
        array.flags.writeable = False
        return array


def make_backend(spec: str) -> Backend:
    if spec == "numpy-readonly":
        library = lookup.LIBRARIES["numpy"]
        return dataclasses.replace(
            get_backend("numpy"), library=_ReadOnlyNumPy(library.name, library.module, library.install)
        )
    return get_backend(spec)


def pytest_report_header() -> list[str]:
    """Say once which backends the tests run on, and why not on the others."""
    lines = []
    for spec in SPECS:
        try:
            make_backend(spec)
        except BackendError as error:
            lines.append(f"{spec}: skipped: {error}")
        else:
            lines.append(f"{spec}: tested")
    return lines


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the examples in interop/ whose library, after which the file is named, is not here."""
    needs = {"onnx": ("onnx", "ndonnx"), "torch": ("torch",), "sklearn": ("sklearn",)}
    for item in items:
        if item.path.parent.name == "interop":
            missing = [name for name in needs.get(item.path.stem, ()) if importlib.util.find_spec(name) is None]
            if missing:
                item.add_marker(pytest.mark.skip(f"{', '.join(missing)} is not installed"))


@pytest.fixture(params=SPECS)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """A `Backend`; `backend.asarray(host, dtype)` makes its arrays, `backend.to_numpy` reads them."""
    try:
        chosen = make_backend(request.param)
    except BackendError as error:
        if request.param in REQUIRED or (request.param not in ON_A_GPU and request.param.partition(":")[0] in REQUIRED):
            raise
        pytest.skip(str(error))
    with chosen.scope():
        yield chosen


@pytest.fixture
def xp(backend: Backend) -> Any:
    """The namespace of the backend under test."""
    return backend.xp


@pytest.fixture(autouse=True)
def _clean_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees the backend that another one, or the shell, has set, nor what another one has found out."""
    monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE, raising=False)
    lookup.loaded.cache_clear()
    handle._dtype.cache_clear()
    yield
    backends.set_backend(None)


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """No test reaches another machine: what one needs is here, and stays the same."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def refuse_others(host: Any) -> None:
        if isinstance(host, str | bytes) and str(host).strip("b'") not in (
            "localhost",
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "",
        ):
            raise RuntimeError(f"no test may reach another machine, and this one asks for {host!r}")

    def own_connect(own: socket.socket, address: Any) -> None:
        refuse_others(address[0] if isinstance(address, tuple) else None)  # a path is of this machine
        connect(own, address)

    def own_look_up(host: Any, *rest: Any, **named: Any) -> Any:
        refuse_others(host)
        return look_up(host, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", own_connect)
        patch.setattr(socket, "getaddrinfo", own_look_up)
        yield
