"""What each library needs of its own: a CUDA device that is not there is played by a stand-in.

The stand-in for CuPy is NumPy with two devices. As on real ones, an array belongs to the device that was
current when it was made, and computing with it while another is current is an illegal memory access.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import os
import pickle
import re
import subprocess
import sys
import types
from typing import Any

import numpy as np
import pytest

import dense_xp
from dense_xp import Adam, Dense, Dropout, LayerNorm, Sequential, backend as module
from dense_xp.backend import (
    Backend,
    ForeignArrayError,
    NoDeviceError,
    available_backends,
    backend_of,
    get_backend,
    libraries,
    lookup,
    to_numpy,
)
from dense_xp.backend.lookup import real_numbers


class Device:
    """A CUDA device: equal by number, current inside its ``with`` block."""

    current = 0
    compute_capability = "90"
    stack: list[int]

    def __init__(self, number: int | None = None) -> None:
        self.id = Device.current if number is None else number
        self.stack = []

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    __hash__ = None  # type: ignore[assignment]

    def __enter__(self) -> Device:
        self.stack.append(Device.current)
        Device.current = self.id
        return self

    def __exit__(self, *_: Any) -> None:
        Device.current = self.stack.pop()


class Wrapped(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that is none of NumPy's, and that NumPy cannot read by accident."""

    def __init__(self, host: Any) -> None:
        self.host = np.asarray(host)

    shape = property(lambda self: self.host.shape)
    ndim = property(lambda self: self.host.ndim)
    dtype = property(lambda self: self.host.dtype)
    T = property(lambda self: type(self)(self.host.T))

    def check(self) -> None:
        """Raise if this array cannot be computed with now."""

    def __getitem__(self, key: Any) -> Any:
        return type(self)(unwrapped(self)[key])

    def __bool__(self) -> bool:
        return bool(unwrapped(self))

    def __int__(self) -> int:
        return int(unwrapped(self))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        kwargs.pop("out", None)  # in place is a new array, as in JAX
        return type(self)(getattr(ufunc, method)(*map(unwrapped, inputs), **kwargs))

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    @classmethod
    def namespace(cls, name: str) -> Any:
        """Return all of NumPy's functions, for these arrays."""
        module: Any = types.ModuleType(name)
        for key, value in vars(np).items():
            if not key.startswith("__"):
                lifted = callable(value) and not isinstance(value, type) and key not in ("finfo", "isdtype")
                setattr(module, key, cls.lifted(value) if lifted else value)
        return module

    @classmethod
    def lifted(cls, function: Any) -> Any:
        def call(*arguments: Any, device: Any = None, **kwargs: Any) -> Any:
            return cls(function(*map(unwrapped, arguments), **kwargs))

        return call


def unwrapped(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(unwrapped, value))
    if not isinstance(value, Wrapped):
        return value
    value.check()
    return value.host


class Core:
    """What CuPy settles on for its products: read once, as real CuPy does (_core/_routines_linalg.pyx, 14.2)."""

    _routines_linalg = types.SimpleNamespace(COMPUTE_TYPE_TF32=7)

    def __init__(self) -> None:
        self.settled = 0

    def get_compute_type(self, dtype: Any) -> int:
        assert np.dtype(dtype) == np.float32
        if not self.settled:
            wanted = int(os.environ.get("CUPY_TF32", "0")) > 0
            self.settled = 7 if wanted and int(Device.compute_capability) >= 80 else 1
        return self.settled


class CudaArray(Wrapped):
    """An array that belongs to a device, and is read by `get` alone."""

    def __init__(self, host: Any) -> None:
        super().__init__(host)
        self.device = Device()

    def check(self) -> None:
        if self.device.id != Device.current:
            raise RuntimeError(f"illegal memory access: device {self.device.id} from {Device.current}")

    def get(self) -> Any:
        return np.array(unwrapped(self))


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two CUDA devices and a CuPy for them."""
    fake = CudaArray.namespace("cupy")
    fake.ndarray, fake.generic = CudaArray, CudaArray
    fake.__version__ = "14.0"
    runtime = types.SimpleNamespace(getDeviceCount=lambda: 2, getDevice=lambda: Device.current)
    fake.cuda = types.SimpleNamespace(runtime=runtime, Device=Device)
    real_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: object() if n == "cupy" else real_spec(n, *a))
    monkeypatch.setattr(importlib.metadata, "distribution", _only_cuda13)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(lookup.LIBRARIES["cupy"], "kernels", "")  # it has arrays, and no kernels or streams
    monkeypatch.setitem(sys.modules, "cupy._core", Core())
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", fake)
    monkeypatch.setattr(sys.modules["array_api_compat"], "cupy", fake, raising=False)
    monkeypatch.setattr(Device, "current", 0)
    return fake


def _only_cuda13(name: str) -> Any:
    if name != "cupy-cuda13x":
        raise importlib.metadata.PackageNotFoundError(name)
    return object()


# ------------------------------------------------------------------ CuPy


def test_the_current_device_is_the_default(cupy: Any) -> None:
    assert get_backend("cupy").spec == "cupy:0"
    with Device(1):
        assert get_backend("cupy").spec == "cupy:1"
    for text in ("cupy:1", "cupy:cuda:1", "cupy:gpu:1", "cupy:cuda1"):
        assert get_backend(text).device == Device(1)
    for text in ("cupy:2", "cupy:x", "cupy:-1"):
        with pytest.raises(
            NoDeviceError, match=rf"the backend '{text}' has no usable device. Usable here: cupy:0, cupy:1"
        ):
            get_backend(text)
    assert pickle.loads(pickle.dumps(get_backend("cupy:1"))) == get_backend("cupy:1")


def test_a_driver_without_devices(cupy: Any) -> None:
    cupy.cuda.runtime.getDeviceCount = lambda: 0
    with pytest.raises(NoDeviceError, match=r"the backend 'cupy' has no usable device\. Usable here: none"):
        get_backend("cupy")
    found = available_backends()["cupy"]
    assert (found.version, found.devices) == ("14.0", ())
    assert isinstance(found.error, NoDeviceError)


def test_data_go_to_the_device_and_come_back(cupy: Any) -> None:
    backend = get_backend("cupy:1")
    for dtype in (None, "float32"):
        array = backend.asarray(np.asarray([1.0, 2.0]), dtype)
        assert array.device == Device(1)
        assert array.dtype == (dtype or "float64")
        assert backend_of(array) == backend
        assert type(backend.to_numpy(array)) is np.ndarray
        np.testing.assert_array_equal(to_numpy(array), [1, 2])
    assert Device.current == 0
    assert backend.needs_scope
    with backend.scope():
        assert Device.current == 1
        np.testing.assert_array_equal(backend.scalars([backend.asarray(1.0), backend.asarray(2.0)]), [1, 2])
    elsewhere = get_backend("cupy:0").asarray([1.0])
    with pytest.raises(ForeignArrayError, match=r"X is on the device .* and the layer on cupy:1: move the data"):
        backend.accept(elsewhere, backend.dtype("float32"))
    with pytest.raises(ForeignArrayError, match="X is a ndarray of numpy and the layer is on cupy:1"):
        backend.accept(np.ones(1), backend.dtype("float32"))


def test_a_layer_works_inside_its_device(cupy: Any) -> None:
    layers = [Dense(3, (2,), backend=where, rng=0, activation="relu") for where in ("cupy:1", "numpy")]
    for layer in layers:
        layer.initialize(Adam(0.1))
    x = np.asarray([[1.0, 2.0], [3.0, -1.0]], "float32")
    device, host = layers
    backend = device.backend
    assert backend is not None
    for _ in range(3):
        np.testing.assert_array_equal(to_numpy(device.forward_pass(backend.asarray(x))), host.forward_pass(x))
        G = np.ones((2, 3), "float32")
        np.testing.assert_array_equal(to_numpy(device.backward_pass(backend.asarray(G))), host.backward_pass(G))
    assert Device.current == 0
    for name, value in device.weights.items():
        assert value.device == Device(1)
        np.testing.assert_array_equal(to_numpy(value), host.weights[name])
    device.set_weights({"W": np.ones((2, 3))})
    assert device.W.device == Device(1)
    assert device.to("cupy:0").W.device == Device(0)
    again = pickle.loads(pickle.dumps(device))
    assert again.W.device == Device(0)


def test_a_network_trains_inside_its_device(cupy: Any) -> None:
    x = np.random.default_rng(0).normal(size=(30, 4)).astype("float32")
    y = (x[:, 0] > 0).astype("int64")
    models = [
        Sequential([Dense(5, activation="tanh"), LayerNorm(), Dropout(0.2), Dense(2)], backend=where, rng=0)
        for where in ("cupy:1", "numpy")
    ]
    options: Any = {"metrics": ["accuracy"], "optimizer": Adam(0.05, clip_norm=1.0), "validation_data": (x, y)}
    histories = [model.fit(x, y, 2, 8, **options) for model in models]
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=1e-6)
    assert all(value.device == Device(1) for value in models[0].weights.values())
    np.testing.assert_allclose(models[0].predict(x), models[1].predict(x), rtol=1e-4, atol=1e-6)
    assert models[0].predict(get_backend("cupy:1").asarray(x)).device == Device(1)
    inferred = Sequential([Dense(2)], rng=0)
    inferred.fit(get_backend("cupy:1").asarray(x), y, 1, 8)
    assert inferred.backend == get_backend("cupy:1")
    assert Device.current == 0


def test_auto_takes_the_gpu_and_says_so(cupy: Any) -> None:
    chosen = get_backend("auto")
    assert (chosen.spec, chosen.device, chosen.xp) == ("cupy:0", Device(0), cupy)
    assert chosen.reason == "cupy has a device"
    assert chosen.asarray([1.0]).device == Device(0)


@pytest.mark.parametrize(("variable", "capability", "expected"), [("1", 80, True), ("1", 75, False), (None, 90, False)])
def test_tf32_is_what_cupy_has_settled_on(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, variable: str | None, capability: int, expected: bool
) -> None:
    monkeypatch.setattr(Device, "compute_capability", str(capability))
    monkeypatch.delenv("CUPY_TF32", raising=False)
    if variable:
        monkeypatch.setenv("CUPY_TF32", variable)
    backend = get_backend("cupy:1")
    assert backend.tf32 is expected
    monkeypatch.setenv("CUPY_TF32", "0" if variable else "1")
    assert backend.tf32 is expected  # CuPy does not look again


def test_the_device_of_real_cupy() -> None:
    """It compares and has no hash; the backend does not need one, nor a driver to know its dtypes."""
    cupy = pytest.importorskip("cupy")
    xp = importlib.import_module("array_api_compat.cupy")
    library = lookup.LIBRARIES["cupy"]
    backend, same, other = (Backend("cupy", xp, cupy.cuda.Device(i), library) for i in (0, 0, 1))
    with pytest.raises(TypeError, match="unhashable"):
        hash(backend.device)
    assert (backend.spec, other.spec) == ("cupy:0", "cupy:1")
    assert backend == same
    assert backend != other
    assert len({backend, same, other}) == 2
    assert [backend.dtype(name) for name in ("float16", "float32", "float64")] == ["float16", "float32", "float64"]
    with pytest.raises(TypeError, match=r"take 'float16' or 'float32', or the backend 'torch:cuda'"):
        backend.dtype("bfloat16")
    layer = dense_xp.Dense(3, (2,), backend=backend)
    assert layer.get_config()["backend"] == "cupy:0"


def test_what_the_stand_in_says_of_devices_holds_for_real_ones() -> None:
    cupy = pytest.importorskip("cupy")
    for device, others in ((cupy.cuda.Device(0), cupy.cuda.Device), (Device(0), Device)):
        assert device == others(0)
        assert device != others(1)
        assert type(device).__hash__ is None
        assert device.id == 0
        assert hasattr(device, "__enter__")
    core = importlib.import_module("cupy._core")
    assert core._routines_linalg.COMPUTE_TYPE_TF32 == Core._routines_linalg.COMPUTE_TYPE_TF32
    assert core.get_compute_type(np.float32) in (1, core._routines_linalg.COMPUTE_TYPE_TF32)


def test_info_shows_every_device(cupy: Any) -> None:
    text = io.StringIO()
    dense_xp.show_config(text)
    assert "  cupy              14.0, on 0, 1\n" in text.getvalue()
    assert text.getvalue().startswith("backend in force: numpy (from: default)\n")
    dense_xp.set_backend("cupy:1")
    text = io.StringIO()
    dense_xp.show_config(text)
    assert text.getvalue().startswith("backend in force: cupy:1 (from: set_backend)\n")


@pytest.mark.parametrize(("found", "conflict"), [(("cupy",), False), (("cupy", "cupy-cuda13x"), True)])
def test_one_package_of_cupy_is_enough(
    cupy: Any, monkeypatch: pytest.MonkeyPatch, found: tuple[str, ...], conflict: bool
) -> None:
    def distribution(name: str) -> Any:
        if name not in found:
            raise importlib.metadata.PackageNotFoundError(name)
        return object()

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    with (
        pytest.raises(dense_xp.ConflictingPackagesError, match="pip uninstall -y cupy cupy-cuda13x  and then install")
        if conflict
        else contextlib.nullcontext()
    ):
        get_backend("cupy")


# ------------------------------------------------------------------ torch, JAX and the others


def test_torch_lists_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    library = lookup.LIBRARIES["torch"]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert library.devices() == ("cpu",)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert library.devices() == ("cpu", "cuda:0", "cuda:1")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert library.devices() == ("cpu", "cuda:0", "cuda:1", "mps")


def test_torch_without_cuda_says_that_it_is_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    library = lookup.LIBRARIES["torch"]
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(
        NoDeviceError, match=r"'torch:cuda' has no usable device \(.+; this torch is a build without CUDA\)"
    ):
        library.device("cuda")
    with pytest.raises(NoDeviceError, match=r"nonsense.*nonsense") as caught:
        library.device("nonsense")
    assert "() " not in str(caught.value)
    assert "build without" not in str(caught.value)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(NoDeviceError) as caught:
        library.device("cuda")
    assert "build without" not in str(caught.value)


def test_torch_and_tf32() -> None:
    """Either of torch's two settings counts, and reading it never raises, in whatever order they were used."""
    pytest.importorskip("torch")
    code = """
import types, torch
from dense_xp.backend.lookup import LIBRARIES
tf32, (gpu, cpu) = LIBRARIES["torch"].tf32, (types.SimpleNamespace(type=kind) for kind in ("cuda", "cpu"))
for precision in ("highest", "high", "medium", "highest"):
    torch.set_float32_matmul_precision(precision)
    print(int(tf32(gpu)), int(tf32(cpu)), end=" ")
if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
    for precision in ("tf32", "ieee"):
        torch.backends.cuda.matmul.fp32_precision = precision
        print(int(tf32(gpu)), end=" ")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("0 0 1 0 1 0 0 0 1 0", "0 0 1 0 1 0 0 0")


def test_jax_and_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    jax = pytest.importorskip("jax")
    library = lookup.LIBRARIES["jax"]
    gpu, cpu = (types.SimpleNamespace(platform=kind) for kind in ("gpu", "cpu"))
    assert get_backend("jax").tf32 is False
    assert library.tf32(gpu) is True  # on unless it is turned off
    with jax.default_matmul_precision("highest"):
        assert library.tf32(gpu) is False
    with jax.default_matmul_precision("float32"):
        assert library.tf32(gpu) is False
    with jax.default_matmul_precision("tensorfloat32"):
        assert library.tf32(gpu) is True
        assert library.tf32(cpu) is False


def test_jax_lists_the_cpu_first(monkeypatch: pytest.MonkeyPatch) -> None:
    jax = pytest.importorskip("jax")
    library = lookup.LIBRARIES["jax"]
    cpus = [types.SimpleNamespace(platform="cpu", id=0)]
    gpus = [types.SimpleNamespace(platform="gpu", id=i) for i in range(2)]
    everything = {"cpu": cpus, "gpu": gpus, None: gpus}
    monkeypatch.setattr(jax, "devices", lambda platform=None: everything[platform])
    assert library.devices() == ("cpu:0", "gpu:0", "gpu:1")
    assert library.device("") is cpus[0]
    assert library.device("gpu") is gpus[0]
    assert library.device("gpu:1") is gpus[1]
    with pytest.raises(NoDeviceError, match="'jax:gpu:2' has no usable device"):
        library.device("gpu:2")


def test_what_the_plain_libraries_answer() -> None:
    found = available_backends()
    assert found["numpy"].version == np.__version__
    assert found["numpy"].devices == ("cpu",)
    assert found["numpy"].error is None
    assert get_backend("numpy:cpu") == get_backend("numpy")
    assert get_backend("numpy").asarray([1, 2], "float32").dtype == "float32"
    assert get_backend("numpy").device == "cpu"
    with pytest.raises(
        NoDeviceError,
        match=r"^the backend 'numpy:x' has no usable device\. Usable here: numpy:cpu; "
        "'auto' takes a GPU where there is one and the CPU otherwise$",
    ):
        get_backend("numpy:x")


def other_library() -> Any:
    """Return a namespace that the package has never heard of, with arrays of its own."""

    class Array(Wrapped):
        device = None

        def __array_namespace__(self, api_version: Any = None) -> Any:
            return other

        def __array__(self, *arguments: Any, **kwargs: Any) -> Any:
            return self.host

    other = Array.namespace("other_arrays")
    return other


def test_a_namespace_as_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    other = other_library()
    monkeypatch.setitem(sys.modules, "other_arrays", other)
    backend = get_backend(other)
    assert (backend.name, backend.spec, backend.device, backend.xp) == ("other_arrays", "other_arrays", None, other)
    array = backend.asarray([[1, 2]], "float32")
    assert array.dtype == "float32"
    assert backend_of(array) == backend
    assert backend.accept(array, backend.dtype("float32")) is array
    assert pickle.loads(pickle.dumps(backend)) == backend
    np.testing.assert_array_equal(to_numpy(array), [[1, 2]])
    with pytest.raises(ForeignArrayError, match="X is a ndarray of numpy and the layer is on other_arrays"):
        backend.accept(np.ones(2), backend.dtype("float32"))
    with pytest.raises(NoDeviceError, match="runs on its own default device"):
        backend.library.device("cpu")
    for missing in ("asarray", "matmul"):
        lame = other_library()
        delattr(lame, missing)
        with pytest.raises(dense_xp.UnknownBackendError, match="it has no asarray or no matmul"):
            get_backend(lame)


def test_compat_modules_are_their_libraries() -> None:
    assert get_backend(importlib.import_module("array_api_compat.numpy")) == get_backend("numpy")
    jax = pytest.importorskip("jax")
    assert get_backend(jax.numpy) == get_backend("jax")


def test_an_error_without_a_text_has_the_name_of_its_kind() -> None:
    assert libraries.first_line(ValueError()) == "ValueError"
    assert libraries.first_line(ValueError("\n one\ntwo")) == "one"


def test_what_is_refused_is_called_by_its_name(backend: module.Backend) -> None:
    dtype = backend.dtype("float32")
    with pytest.raises(TypeError, match=r"^accum_grad must hold real numbers"):
        backend.accept(["a"], dtype, "accum_grad")
    with pytest.raises(TypeError, match=r"^X must hold real numbers"):
        backend.accept(["a"], dtype)
    complexes = backend.asarray(np.asarray([1j]))
    with pytest.raises(TypeError, match=r"^accum_grad must hold real numbers"):
        backend.accept(complexes, dtype, "accum_grad")


def test_scalars_are_doubles(backend: module.Backend) -> None:
    assert backend.scalars([backend.asarray(1.0, "float32")]).dtype == np.float64


def test_numpy_arrays_are_not_copied_without_need() -> None:
    backend = get_backend("numpy")
    x = np.ones(3, "float32")
    assert backend.accept(x, backend.dtype("float32")) is x
    assert backend.asarray(x, "float32") is x


def test_the_strict_library_and_its_devices() -> None:
    strict = pytest.importorskip("array_api_strict")
    found = available_backends()["array_api_strict"]
    assert found.devices[:2] == ("cpu", "device1")
    assert found.version == strict.__version__
    assert get_backend("array_api_strict:device1").spec == "array_api_strict:device1"
    assert get_backend("array_api_strict").spec == "array_api_strict:cpu"
    with pytest.raises(NoDeviceError, match=r"_strict:x' has no usable device \(.*x.*\)\. Usable here: .*:cpu, "):
        get_backend("array_api_strict:x")
    assert not lookup.LIBRARIES["array_api_strict"].owns(3)


def test_torch_puts_data_on_the_device_that_was_named() -> None:
    pytest.importorskip("torch")
    meta = get_backend("torch:meta")
    assert meta.asarray([1.0], "float32").device.type == "meta"
    backend = get_backend("torch")
    for host in (np.arange(6.0)[::-2], np.asfortranarray(np.ones((2, 3))), np.broadcast_to(1.0, (3,))):
        np.testing.assert_array_equal(backend.to_numpy(backend.asarray(host)), host)


KNOWN_CUPY = ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x", "cupy-rocm-5-0", "cupy-rocm-7-0")


@pytest.mark.parametrize("name", [name for name in KNOWN_CUPY if name != "cupy-cuda13x"])
def test_any_second_package_of_cupy_is_a_conflict(cupy: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def distribution(asked: str) -> Any:
        if asked not in (name, "cupy-cuda13x"):
            raise importlib.metadata.PackageNotFoundError(asked)
        return object()

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    both = [known for known in KNOWN_CUPY if known in (name, "cupy-cuda13x")]
    says = f"installed at once ({', '.join(both)}) and break each other: run  pip uninstall -y {' '.join(both)}  and"
    with pytest.raises(dense_xp.ConflictingPackagesError, match=re.escape(says)):
        get_backend("cupy")


def test_what_a_driver_says_is_passed_on(cupy: Any) -> None:
    def fails() -> int:
        raise RuntimeError("no driver\nat all")

    cupy.cuda.runtime.getDeviceCount = fails
    for text in ("cupy", "cupy:1"):
        with pytest.raises(
            NoDeviceError,
            match=rf"^the backend '{text}' has no usable device \(no driver\); check the driver with  nvidia-smi\. "
            r"Usable here: none; ",
        ):
            get_backend(text)
    found = available_backends()["cupy"]
    assert (found.version, found.devices) == ("14.0", ())
    says = "the backend 'cupy' has no usable device (no driver); check the driver with  nvidia-smi. Usable here: none; "
    assert str(found.error).startswith(says)
    assert isinstance(found.error, NoDeviceError)
    assert isinstance(found.error.__cause__, RuntimeError)


def test_what_is_not_installed_has_no_version_and_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    real_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "dpnp" else real_spec(n, *a))
    found = available_backends()["dpnp"]
    assert (found.version, found.devices) == (None, ())
    assert str(found.error) == "the backend 'dpnp' is not installed: run  pip install dpnp"


def test_no_devices_at_all_is_a_fault_too(cupy: Any) -> None:
    cupy.cuda.runtime.getDeviceCount = lambda: 0
    assert str(available_backends()["cupy"].error).startswith("the backend 'cupy' has no usable device. Usable")


def test_auto_without_a_gpu_says_why_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    real_spec = importlib.util.find_spec
    gone = ("cupy", "torch", "jax")
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n in gone else real_spec(n, *a))
    chosen = get_backend("auto")
    assert chosen == get_backend("numpy")
    assert chosen.reason.startswith("no GPU can be used. cupy: the backend 'cupy' is not installed: run  pip ")
    assert " | torch:cuda: the backend 'torch' is not installed" in chosen.reason
    assert " | jax:gpu: the backend 'jax' is not installed" in chosen.reason


def test_show_config_knows_a_block() -> None:
    text = io.StringIO()
    with dense_xp.use_backend("numpy"):
        dense_xp.show_config(text)
    assert text.getvalue().startswith("backend in force: numpy (from: use_backend)\n")


def test_a_library_is_what_it_was_made_from() -> None:
    library = libraries.Library("a", "b.c", "pip install a")
    assert (library.name, library.module, library.install) == ("a", "b.c", "pip install a")
    other = libraries.Namespace(other_library())
    assert (other.name, other.module, other.install) == ("other_arrays", "other_arrays", "pip install other_arrays")
    with pytest.raises(
        NoDeviceError,
        match=r"^the backend 'other_arrays:x' has no usable device: a namespace passed as a module ",
    ):
        other.device("x")


def test_arrays_that_are_read_by_the_exchange_protocol() -> None:
    class Exchanged:
        """Neither of NumPy nor readable by it, but for DLPack."""

        host = np.asarray([1.0, 2.0])

        def __dlpack__(self, **kwargs: Any) -> Any:
            return self.host.__dlpack__(**kwargs)

        def __dlpack_device__(self) -> Any:
            return self.host.__dlpack_device__()

    np.testing.assert_array_equal(libraries.Namespace(other_library()).get(Exchanged()), [1, 2])


def test_what_is_read_is_named_and_hints_at_the_remedy() -> None:
    class Sparse:
        def toarray(self) -> Any: ...

    backend = get_backend("numpy")
    with pytest.raises(TypeError, match=r"^X must hold real numbers, .*; a sparse matrix needs  \.toarray\(\)$"):
        real_numbers(Sparse())
    with pytest.raises(TypeError, match=r"^X must hold real numbers, and NumPy reads it as dtype <U1$"):
        real_numbers(["a"])
    with pytest.raises(TypeError, match=r"^X must hold real numbers, and its dtype is complex128$"):
        backend.cast(np.ones(1, complex), backend.dtype("float32"))


def test_the_owner_of_a_foreign_array_is_named() -> None:
    torch = pytest.importorskip("torch")
    backend = get_backend("numpy")
    with pytest.raises(
        ForeignArrayError, match=r"X is a Tensor of torch and the layer is on numpy: .* layer\.to\('torch'\)"
    ):
        backend.accept(torch.ones(1), backend.dtype("float32"))


def test_specs_with_two_colons_are_read_back() -> None:
    pytest.importorskip("jax")
    backend = get_backend("jax:cpu:0")
    assert pickle.loads(pickle.dumps(backend)) == backend
    assert backend.spec == "jax:cpu:0"


def test_jax_compiles_what_it_is_given() -> None:
    pytest.importorskip("jax")
    traced = []

    def double(x: Any) -> Any:
        traced.append(type(x).__name__)
        return x * 2

    backend = get_backend("jax")
    compiled = backend.compile(double)
    for value in (1.0, 3.0):
        assert float(compiled(backend.asarray(value, "float32"))) == 2 * value
    assert len(traced) == 1
    assert "Tracer" in traced[0]
    with pytest.raises(
        NoDeviceError, match=r"^the backend 'jax:cpu:99' has no usable device \(.+\)\. Usable here: jax:cpu:0"
    ):
        get_backend("jax:cpu:99")


def test_dpnp_and_its_devices() -> None:
    pytest.importorskip("dpnp")
    found = available_backends()["dpnp"]
    if not found:
        pytest.skip(str(found.error))
    for name in found.devices:
        assert get_backend(f"dpnp:{name}").spec == f"dpnp:{name}"
    assert get_backend("dpnp").spec.removeprefix("dpnp:") in found.devices
    with pytest.raises(NoDeviceError, match=r"^the backend 'dpnp:x' has no usable device \(.+\)\. Usable here: dpnp:"):
        get_backend("dpnp:x")
    assert not lookup.LIBRARIES["dpnp"].owns(np.ones(1))


@pytest.mark.parametrize("spec", ["jax:cpu:-1", "jax:cpu:99", "jax:cpu:x"])
def test_devices_of_jax_are_counted_from_zero(spec: str) -> None:
    pytest.importorskip("jax")
    with pytest.raises(NoDeviceError, match="has no usable device"):
        get_backend(spec)
