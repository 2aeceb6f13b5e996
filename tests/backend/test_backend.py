"""Choosing a backend, the five ways in which that fails, and what may cross from one to another."""

from __future__ import annotations

import builtins
import importlib.metadata
import importlib.util
import io
import pickle
import subprocess
import sys
import threading
import types
from typing import Any

import numpy as np
import pytest

import dense_xp
from dense_xp import backend as module
from dense_xp.backend import (
    Backend,
    ConflictingPackagesError,
    ForeignArrayError,
    ImportFailedError,
    NoDeviceError,
    NotInstalledError,
    UnknownBackendError,
    available_backends,
    backend_of,
    get_backend,
    resolve,
    set_backend,
    show_config,
    to_numpy,
    use_backend,
)
from tests.comparing import assert_same_kind

# ------------------------------------------------------------------ names and precedence


def test_spec_makes_the_same_backend_again(backend: Backend) -> None:
    assert get_backend(backend.spec) == backend
    assert str(backend) == backend.spec
    assert pickle.loads(pickle.dumps(backend)) == backend


def test_a_backend_is_given_back_as_it_is(backend: Backend) -> None:
    assert get_backend(backend) is backend


@pytest.mark.parametrize(
    ("name", "near"),
    [("nmpy", "numpy"), ("pytorch", "torch"), ("Cuda:1", "cupy"), ("gpu", "auto"), ("array_api", "array_api_strict")],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownBackendError, match=f"did you mean '{near}'"):
        get_backend(name)


def test_a_name_like_no_other_is_answered_with_all() -> None:
    known = "numpy, cupy, torch, jax, array_api_strict, dpnp, auto, or an Array API namespace passed as a module"
    with pytest.raises(UnknownBackendError, match=rf"^unknown backend 'zzz' Known: {known}$"):
        get_backend("zzz")
    with pytest.raises(UnknownBackendError, match=r"did you mean 'auto'\?"):
        get_backend("atuo")
    with pytest.raises(UnknownBackendError, match=r"and this is a int$"):
        get_backend(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [3, ["numpy"], np.ones(2)])
def test_what_is_no_name_is_refused(wrong: Any) -> None:
    with pytest.raises(UnknownBackendError, match="a backend is a name such as 'numpy'"):
        get_backend(wrong)


def test_a_module_that_is_no_namespace_is_refused() -> None:
    with pytest.raises(UnknownBackendError, match="'types' is not an Array API namespace"):
        get_backend(types)


def test_known_modules_are_their_named_backends() -> None:
    assert get_backend(np) == get_backend("numpy")
    strict = pytest.importorskip("array_api_strict")
    assert get_backend(strict) == get_backend("array_api_strict")


def test_another_namespace_is_taken_as_a_module() -> None:
    """A library that this package has never heard of: here NumPy under another name."""
    other = types.ModuleType("other_arrays")
    vars(other).update({k: v for k, v in vars(np).items() if not k.startswith("__")})
    backend = get_backend(other)
    assert backend.name == "other_arrays"
    layer = dense_xp.Dense(2, (3,), backend=other, rng=0)
    layer.initialize("sgd")
    assert to_numpy(layer.forward_pass([[1, 2, 3]])).shape == (1, 2)


def test_case_and_hyphens_of_names_do_not_matter() -> None:
    pytest.importorskip("array_api_strict")
    assert get_backend(" Array-API-Strict ") == get_backend("array_api_strict")
    assert get_backend("NumPy").name == "numpy"


def test_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("array_api_strict")
    assert resolve().spec == "numpy"
    strict = get_backend("array_api_strict")
    device1 = get_backend("array_api_strict:device1")
    array = strict.asarray([1.0])
    assert resolve(None, array) == strict  # the arrays that came in
    monkeypatch.setenv(module.ENVIRONMENT_VARIABLE, "array_api_strict:device1")
    assert resolve(None, array) == device1  # above them the environment
    set_backend("numpy")
    assert resolve(None, array).spec == "numpy"  # above it set_backend
    with use_backend(strict) as inner:
        assert inner == resolve() == strict  # above it use_backend
        assert resolve("numpy").spec == "numpy"  # and above all what the object says itself
    assert resolve().spec == "numpy"


def test_use_backend_is_undone_by_an_exception_and_is_of_this_thread_alone() -> None:
    pytest.importorskip("array_api_strict")
    seen = []
    thread = threading.Thread(target=lambda: seen.append(get_backend().spec))

    def leave_by_an_error() -> None:
        with use_backend("array_api_strict"):
            thread.start()
            thread.join()
            raise KeyError

    with pytest.raises(KeyError):
        leave_by_an_error()
    assert seen == ["numpy"]
    assert get_backend().spec == "numpy"


def test_a_wrong_setting_changes_nothing() -> None:
    set_backend("numpy")
    with pytest.raises(UnknownBackendError):
        set_backend("nmpy")
    with pytest.raises(UnknownBackendError), use_backend("nmpy"):
        pass
    assert get_backend().spec == "numpy"


def test_an_error_from_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.ENVIRONMENT_VARIABLE, "nmpy")
    with pytest.raises(UnknownBackendError) as caught:
        get_backend()
    assert module.ENVIRONMENT_VARIABLE in caught.value.__notes__[0]


def test_switching_never_moves_a_layer_that_exists() -> None:
    pytest.importorskip("array_api_strict")
    layer = dense_xp.Dense(2, (3,))
    layer.initialize()
    set_backend("array_api_strict")
    assert layer.backend == get_backend("numpy")
    assert isinstance(layer.forward_pass(np.ones((1, 3))), np.ndarray)


def test_auto_falls_back_to_numpy_and_says_why() -> None:
    chosen = get_backend("auto")
    if chosen.name == "numpy":
        assert "cupy" in chosen.reason
        assert "torch" in chosen.reason
        assert "jax" in chosen.reason
    else:
        assert chosen.reason


# ------------------------------------------------------------------ the five faults


def _pretend(monkeypatch: pytest.MonkeyPatch, name: str, load: Any) -> None:
    """Make the library `name` look installed, with `load` standing for its import."""
    real_spec, real_import = importlib.util.find_spec, importlib.import_module
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: object() if n == name else real_spec(n, *a))
    monkeypatch.setattr(
        importlib, "import_module", lambda n, *a: load() if name in n.split(".") else real_import(n, *a)
    )
    monkeypatch.setattr(importlib.metadata, "distribution", _no_distribution)


def _no_distribution(name: str) -> Any:
    raise importlib.metadata.PackageNotFoundError(name)


def test_not_installed_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotInstalledError, match=r'pip install "dense-xp\[torch\]"'):
        get_backend("torch")
    assert issubclass(NotInstalledError, ImportError)


def test_a_failed_import_keeps_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> Any:
        raise OSError("libtorch.so: cannot open shared object file\nsecond line")

    _pretend(monkeypatch, "torch", load)
    with pytest.raises(ImportFailedError, match=r"OSError: libtorch.so: cannot open shared object file\. ") as caught:
        get_backend("torch")
    assert isinstance(caught.value.__cause__, OSError)


def _fake_cupy(count: Any) -> Any:
    runtime = types.SimpleNamespace(getDeviceCount=count, getDevice=lambda: 0)
    return types.SimpleNamespace(
        cuda=types.SimpleNamespace(runtime=runtime, Device=lambda i: types.SimpleNamespace(id=i)), __version__="0"
    )


def test_cupy_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def count() -> int:
        raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")

    _pretend(monkeypatch, "cupy", lambda: _fake_cupy(count))
    with pytest.raises(NoDeviceError, match=r"cudaErrorInsufficientDriver.*nvidia-smi.*'auto' takes a GPU"):
        get_backend("cupy")
    found = available_backends()["cupy"]
    assert not found
    assert isinstance(found.error.__cause__, RuntimeError)


def test_cupy_without_the_device_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, "cupy", lambda: _fake_cupy(lambda: 2))
    with pytest.raises(NoDeviceError, match=r"'cupy:2' has no usable device.*cupy:0, cupy:1"):
        get_backend("cupy:2")
    assert get_backend("cupy:1").spec == "cupy:1"
    assert get_backend("cupy:cuda:1").spec == "cupy:1"
    assert get_backend("cupy").spec == "cupy:0"


def test_real_cupy_without_a_gpu() -> None:
    """Where CuPy is installed and finds no device; skipped where it works or is missing."""
    pytest.importorskip("cupy")
    found = available_backends()["cupy"]
    if found:
        pytest.skip("there is a GPU")
    with pytest.raises(NoDeviceError, match=r"no usable device.*nvidia-smi"):
        get_backend("cupy")
    layer = dense_xp.Dense(2, (3,), backend="cupy")
    before = dict(vars(layer))
    with pytest.raises(NoDeviceError):
        layer.initialize("adam")
    assert vars(layer) == before


def test_several_cupy_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, "cupy", lambda: _fake_cupy(lambda: 1))
    monkeypatch.setattr(
        importlib.metadata,
        "distribution",
        lambda name: object() if name in ("cupy-cuda12x", "cupy-cuda13x") else _no_distribution(name),
    )
    with pytest.raises(ConflictingPackagesError, match="pip uninstall -y cupy-cuda12x cupy-cuda13x"):
        get_backend("cupy")


@pytest.mark.parametrize("spec", ["numpy:gpu", "array_api_strict:device7", "torch:cuda:99", "torch:x", "jax:gpu:99"])
def test_no_such_device(spec: str) -> None:
    if not available_backends()[spec.partition(":")[0]]:
        pytest.skip(f"{spec} is not installed")
    with pytest.raises(NoDeviceError, match=f"the backend '{spec}' has no usable device"):
        get_backend(spec)


def test_the_five_faults_are_told_apart() -> None:
    faults = (
        UnknownBackendError,
        NotInstalledError,
        ImportFailedError,
        NoDeviceError,
        ConflictingPackagesError,
        ForeignArrayError,
    )
    for fault in faults:
        assert issubclass(fault, dense_xp.BackendError)
        assert not any(issubclass(fault, other) for other in faults if other is not fault)


# ------------------------------------------------------------------ arrays


def test_asarray_places_and_to_numpy_brings_back(backend: Backend) -> None:
    host = np.arange(12, dtype="float64").reshape(3, 4)[::-1, ::2]
    for dtype in ("float32", "float64"):
        array = backend.asarray(host, dtype)
        assert_same_kind(array, backend, dtype, (3, 2))
        back = backend.to_numpy(array)
        assert back.dtype == dtype
        np.testing.assert_array_equal(back, host)
        assert backend_of(array) == backend
        assert backend_of(array).xp is backend.xp
        np.testing.assert_array_equal(to_numpy(array), host)


def test_labels_and_masks_cross_too(backend: Backend) -> None:
    np.testing.assert_array_equal(backend.to_numpy(backend.asarray(np.asarray([3, 1], dtype="int64"))), [3, 1])
    np.testing.assert_array_equal(backend.to_numpy(backend.asarray(np.asarray([True, False]))), [True, False])


def test_accept_gives_lists_and_integers_the_dtype(backend: Backend) -> None:
    dtype = backend.dtype("float32")
    assert_same_kind(backend.accept([[1, 2]], dtype), backend, "float32", (1, 2))
    assert_same_kind(backend.accept(3, dtype), backend, "float32", ())
    integers = backend.asarray(np.asarray([[1, 2]]))
    assert_same_kind(backend.accept(integers, dtype), backend, "float32", (1, 2))
    doubles = backend.asarray([[1.0]], "float64")
    assert_same_kind(backend.accept(doubles, dtype), backend, "float32", (1, 1))


def test_accept_refuses_what_lives_elsewhere(backend: Backend) -> None:
    if backend.name == "numpy":
        pytest.importorskip("array_api_strict")
        foreign, owner = get_backend("array_api_strict").asarray([1.0]), "array_api_strict"
    else:
        foreign, owner = np.ones(1), "numpy"
    with pytest.raises(ForeignArrayError, match=f"of {owner} and the layer is on {backend}.*backend.asarray"):
        backend.accept(foreign, backend.dtype("float32"))


def test_accept_refuses_another_device() -> None:
    pytest.importorskip("array_api_strict")
    here, there = get_backend("array_api_strict"), get_backend("array_api_strict:device1")
    with pytest.raises(ForeignArrayError, match=r"device array_api_strict.Device\('device1'\) and the layer on"):
        here.accept(there.asarray([1.0]), here.dtype("float32"))


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        ([[1], [1, 2]], ValueError, "not a rectangular array"),
        (["a"], TypeError, "must hold real numbers"),
        ([1j], TypeError, "must hold real numbers"),
        ([None], TypeError, "must hold real numbers"),
    ],
)
def test_accept_refuses_what_is_no_number(backend: Backend, data: Any, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        backend.accept(data, backend.dtype("float32"))


def test_accept_refuses_complex_and_masked_arrays(backend: Backend) -> None:
    with pytest.raises(TypeError, match="must hold real numbers, and"):
        backend.accept(backend.asarray(np.asarray([1j])), backend.dtype("float32"))
    if backend.name == "numpy":
        with pytest.raises(TypeError, match="masked"):
            backend.accept(np.ma.masked_array([1.0], [True]), backend.dtype("float32"))


def test_unknown_dtypes_are_refused(backend: Backend) -> None:
    with pytest.raises(TypeError, match="dtype must be 'float32'"):
        backend.dtype("int32")
    if not hasattr(backend.xp, "bfloat16"):
        with pytest.raises(TypeError, match="has no dtype 'bfloat16'"):
            backend.dtype("bfloat16")


def test_bfloat16_is_rounded_by_the_library(backend: Backend) -> None:
    if not hasattr(backend.xp, "bfloat16"):
        pytest.skip(f"{backend} has no bfloat16")
    array = backend.asarray([1.0, 1.00390625, 3.0e38], "bfloat16")
    assert array.dtype == backend.dtype("bfloat16")
    np.testing.assert_array_equal(backend.to_numpy(array)[:2], np.asarray([1.0, 1.0], "float32"))


def test_jax_says_how_to_get_float64() -> None:
    pytest.importorskip("jax")
    code = (
        "from dense_xp import get_backend\n"
        "try: get_backend('jax').dtype('float64')\n"
        "except TypeError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"JAX_ENABLE_X64": "0"}, check=True
    )
    assert "JAX_ENABLE_X64=1" in done.stdout


def test_scalars_come_in_one_go(backend: Backend) -> None:
    arrays = [backend.asarray(float(i), "float32") for i in range(5)]
    np.testing.assert_array_equal(backend.scalars(arrays), np.arange(5.0))


def test_torch_tape_is_left_behind() -> None:
    torch = pytest.importorskip("torch")
    backend = get_backend("torch")
    taped = torch.ones(2, 2, requires_grad=True)
    assert not backend.accept(taped, backend.dtype("float32")).requires_grad


# ------------------------------------------------------------------ the diagnosis


def test_available_backends_knows_all_and_allocates_nothing() -> None:
    found = available_backends()
    assert set(found) == {"numpy", "cupy", "torch", "jax", "array_api_strict", "dpnp"}
    assert found["numpy"]
    for name, one in found.items():
        assert bool(one) == (one.error is None)
        assert bool(one.devices) == bool(one), name


def test_show_config_prints_who_set_it() -> None:
    text = io.StringIO()
    set_backend("numpy")
    show_config(text)
    assert "backend in force: numpy (from: set_backend)" in text.getvalue()
    assert "cupy" in text.getvalue()


def test_the_import_writes_and_prints_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import dense_xp"], capture_output=True, text=True, check=True
    )
    assert done.stdout == done.stderr == ""


def test_no_builtin_is_shadowed() -> None:
    assert not set(dense_xp.__all__) & set(vars(builtins))
