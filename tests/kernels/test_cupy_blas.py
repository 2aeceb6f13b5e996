"""Products by cuBLAS itself: every way in which the factors may lie in memory, and the precision that was set."""

from __future__ import annotations

import ctypes
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dense_xp.backend import get_backend, to_numpy, use_backend
from tests.conftest import REQUIRED
from tests.kernels.kernel_sets import kernel_set
from tests.stand_ins import cuda_on_host

RNG = np.random.default_rng(0)


@pytest.fixture(params=["cupy", "cupy-on-the-host"])
def blas(request: pytest.FixtureRequest) -> Iterator[Any]:
    module, chosen = kernel_set(request.param)
    with use_backend(chosen), chosen.scope():
        products, why = module.blas()
        if products is None and "cupy" not in REQUIRED:
            pytest.skip(why)
        yield products


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "sizes", [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 5), (1, 4, 1), (3, 1, 1), (1, 1, 1)]
)
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
def test_products(blas: Any, sizes: tuple[int, int, int], transposed: tuple[bool, bool], dtype: str) -> None:
    put = get_backend().asarray
    m, k, n = sizes
    A, B = RNG.normal(size=(m, k)).astype(dtype), RNG.normal(size=(k, n)).astype(dtype)
    placed = [put(x.T.copy()).T if flag else put(x) for x, flag in zip((A, B), transposed, strict=True)]
    out = get_backend().xp.empty((m, n), dtype=placed[0].dtype)
    blas.product(*placed, out)
    np.testing.assert_allclose(to_numpy(out), A @ B, rtol=1e-5, atol=1e-6)


def test_parts_of_arrays(blas: Any) -> None:
    put = get_backend().asarray
    A, B = RNG.normal(size=(7, 9)), RNG.normal(size=(7, 5))
    out = put(np.zeros((6, 5)))
    blas.product(put(A).T[2:6, :], put(B), out[1:5, :])
    np.testing.assert_allclose(to_numpy(out)[1:5], A.T[2:6] @ B, rtol=1e-12)
    assert not to_numpy(out)[[0, 5]].any()
    blas.product(put(A)[:, 2:6], put(B)[1:5, :], wide := put(np.zeros((7, 5))))
    np.testing.assert_allclose(to_numpy(wide), A[:, 2:6] @ B[1:5], rtol=1e-12)


VIEWS = {
    "as it is": lambda x: x,
    "rows reversed": lambda x: x[::-1],
    "columns reversed": lambda x: x[:, ::-1],
    "every other row": lambda x: x[::2],
    "every other column": lambda x: x[:, ::2],
    "both": lambda x: x[::2, ::-2],
    "transposed and reversed": lambda x: x.T[::-1],
    "one row": lambda x: x[1:2, ::2],
    "one column": lambda x: x[::-1, 2:3],
}


@pytest.mark.parametrize("left", VIEWS)
@pytest.mark.parametrize("right", VIEWS)
def test_factors_may_lie_in_memory_as_they_like(blas: Any, left: str, right: str) -> None:
    put = get_backend().asarray
    A, B = RNG.normal(size=(6, 6)), RNG.normal(size=(6, 6))
    seen, other = VIEWS[left](A), VIEWS[right](B)
    inner = min(seen.shape[1], other.shape[0])
    out = put(np.full((seen.shape[0], other.shape[1]), np.nan))
    blas.product(VIEWS[left](put(A))[:, :inner], VIEWS[right](put(B))[:inner], out)
    np.testing.assert_allclose(to_numpy(out), seen[:, :inner] @ other[:inner], rtol=1e-12)


def strided(array: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    if isinstance(array, cuda_on_host.DeviceArray):
        return cuda_on_host.DeviceArray(array.holder, np.lib.stride_tricks.as_strided(array.host, shape, strides))
    return importlib.import_module("cupy").lib.stride_tricks.as_strided(array, shape, strides)


def test_broadcast_factors_and_sliding_windows(blas: Any) -> None:
    """Their rows overlap in memory: the distance of two rows is less than a row."""
    xp, put = blas.cupy, get_backend().asarray
    row, B = RNG.normal(size=(1, 4)), RNG.normal(size=(4, 3))
    out = put(np.zeros((5, 3)))
    blas.product(xp.broadcast_to(put(row), (5, 4)), put(B), out)
    np.testing.assert_allclose(to_numpy(out), np.broadcast_to(row, (5, 4)) @ B, rtol=1e-12)
    series = RNG.normal(size=8)
    blas.product(strided(put(series), (5, 4), (8, 8)), put(B), out)
    np.testing.assert_allclose(to_numpy(out), np.lib.stride_tricks.sliding_window_view(series, 4) @ B, rtol=1e-12)


def test_the_precision_is_what_cupy_has_settled_on(blas: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("float32", "float64", "float16", "bfloat16")
    monkeypatch.setattr(blas.cupy._core, "get_compute_type", lambda dtype: 1)
    assert [blas.compute_type(name) for name in names] == [68, 70, 68, 68]
    monkeypatch.setattr(blas.cupy._core, "get_compute_type", lambda dtype: 7)
    assert [blas.compute_type(name) for name in names] == [77, 70, 68, 68]


def test_a_stream_has_its_own_handle_and_workspace(blas: Any) -> None:
    first = blas.handle()
    assert blas.handle() is first
    with blas.cupy.cuda.Stream(non_blocking=True):
        second = blas.handle()
    assert second is not first
    assert second.workspace.ptr != first.workspace.ptr


def test_a_handle_of_ones_own_is_used_and_given_back(blas: Any) -> None:
    stream = blas.cupy.cuda.Stream(non_blocking=True)
    own = blas.Handle(stream.ptr)
    with blas.using(own):
        assert blas.handle() is own
    assert blas.handle() is not own
    on_host = blas.cupy is cuda_on_host.cupy()
    assert not on_host or own.pointer in cuda_on_host.cublas.handles
    gone = own.pointer
    del own
    assert gone not in cuda_on_host.cublas.handles or not on_host


# ------------------------------------------------------------------ the library itself, where it is installed

C_TYPES = {
    "int64_t": ctypes.c_int64, "uint64_t": ctypes.c_uint64, "int": ctypes.c_int, "size_t": ctypes.c_size_t,
    "float": ctypes.c_float,
}  # fmt: skip


@pytest.fixture
def real() -> Any:
    """The module, with NVIDIA's own library: that can be loaded without a device."""
    pytest.importorskip("cupy")
    pathfinder = pytest.importorskip("cuda.pathfinder")
    try:
        pathfinder.load_nvidia_dynamic_lib("cublas")
    except pathfinder.DynamicLibNotFoundError as error:
        pytest.skip(str(error))
    return importlib.import_module("dense_xp.kernels.cupy_blas")


@pytest.fixture
def header(real: Any) -> str:
    return declarations(real.library(), ("cublas_api.h", "library_types.h"))


def declarations(library: Any, names: tuple[str, ...]) -> str:
    """Return what NVIDIA's headers beside a library declare, without comments."""
    folder = Path(library._name).parents[1] / "include"
    if not (folder / names[0]).exists():
        pytest.skip("the library is installed without its header")
    text = "".join((folder / name).read_text(encoding="utf-8") for name in names)
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)


def test_cublas_is_the_library_that_cupy_uses(real: Any) -> None:
    importlib.import_module("cupy_backends.cuda.libs").cublas  # noqa: B018 - CuPy loads it now
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no list of what this process has loaded")
    loaded = {line.split(maxsplit=5)[5] for line in maps.read_text().splitlines() if "/libcublas.so" in line}
    assert {str(Path(path).resolve()) for path in loaded} == {str(Path(real.library()._name).resolve())}


def test_the_functions_are_as_the_header_declares_them(real: Any, header: str) -> None:
    for name, parameters in real.PROTOTYPES.items():
        found = re.search(rf"cublasStatus_t CUBLASWINAPI {name}\(([^)]*)\);", header)
        assert found, name
        declared = [text.strip().rpartition(" ")[0] for text in found[1].split(",")]
        # handles and streams are pointers, enumerations are int
        opaque = {"cublasHandle_t": ctypes.c_void_p, "cudaStream_t": ctypes.c_void_p}
        kinds = [ctypes.c_void_p if "*" in kind else (opaque | C_TYPES).get(kind, ctypes.c_int) for kind in declared]
        assert list(parameters) == kinds, name


def test_the_constants_are_those_of_the_header(real: Any, header: str) -> None:
    named = dict(re.findall(r"(CUBLAS_\w+|CUDA_R_\w+)\s*=\s*(-?\d+)", header))
    kinds = {"float32": "32F", "float64": "64F", "float16": "16F", "bfloat16": "16BF"}
    assert {name: int(named[f"CUDA_R_{kind}"]) for name, kind in kinds.items()} == real.DATA_TYPES
    for ours, theirs in {
        "COMPUTE_32F": "CUBLAS_COMPUTE_32F",
        "COMPUTE_64F": "CUBLAS_COMPUTE_64F",
        "COMPUTE_32F_FAST_TF32": "CUBLAS_COMPUTE_32F_FAST_TF32",
        "AS_IT_IS": "CUBLAS_OP_N",
        "TRANSPOSED": "CUBLAS_OP_T",
        "DEFAULT_ALGORITHM": "CUBLAS_GEMM_DEFAULT",
    }.items():
        assert getattr(real, ours) == int(named[theirs]), ours


def test_what_cublas_refuses_is_an_error_with_its_words(real: Any) -> None:
    with pytest.raises(RuntimeError, match="cublasSetStream_v2: the library was not initialized"):
        real.library().cublasSetStream_v2(None, None)


def test_the_extra_brings_all_that_a_machine_with_a_driver_needs() -> None:
    """The compiler, its headers and cuBLAS are found by CuPy's own search, in Python's packages alone."""
    try:
        folder = importlib.import_module("importlib.metadata").distribution("nvidia-cuda-runtime").locate_file("nvidia")
    except ImportError:
        if "cuda13" in REQUIRED:
            raise
        pytest.skip('installed without the extra "cuda13"')
    pathfinder = importlib.import_module("cuda.pathfinder")
    for name in ("cublas", "cublasLt", "cudart", "nvrtc"):
        path = Path(pathfinder.load_nvidia_dynamic_lib(name).abs_path)
        assert path.is_relative_to(str(folder)), name
    assert list(path.parent.glob("*nvrtc-builtins*"))  # which the compiler opens by itself
    headers = Path(pathfinder.find_nvidia_header_directory("cudart"))
    assert headers.is_relative_to(str(folder))
    assert (headers / "cuda_fp16.h").is_file()
    environment = importlib.import_module("cupy")._environment
    assert Path(environment.get_cuda_path()).is_relative_to(str(folder))
