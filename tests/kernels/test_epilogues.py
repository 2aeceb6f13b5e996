"""Products that end in a bias, a ReLU or sums: the numbers of a product and a kernel, on the way there and back."""

from __future__ import annotations

import ctypes
import functools
import importlib
import operator
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dense_xp import SGD, Adam, CosineSchedule, Dense, Dropout, LayerNorm, Sequential
from dense_xp.backend import get_backend, to_numpy, use_backend
from dense_xp.learning.losses import MeanSquaredError, SoftmaxCrossEntropy
from dense_xp.support.trees import flatten
from dense_xp.training.fused.epilogues import EpilogueStage
from dense_xp.training.fused.step import FusedStep
from tests.conftest import REQUIRED
from tests.kernels.kernel_sets import kernel_set, used_by_trainings
from tests.kernels.test_cupy_blas import C_TYPES, declarations
from tests.stand_ins import cublas_lt_on_host, cuda_on_host

RNG = np.random.default_rng(0)
NEVER = 10**6


@pytest.fixture(params=["cupy", "cupy-on-the-host"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    module, chosen = kernel_set(request.param)
    used_by_trainings(module, monkeypatch)
    monkeypatch.setenv("DENSE_XP_CUBLASLT", "1")
    with use_backend(chosen), chosen.scope():
        if module.blas()[0] is None and "cupy" not in REQUIRED:
            pytest.skip(module.blas()[1])
        yield module


@pytest.fixture
def products(kernels: Any) -> Any:
    return kernels.epilogues()


def played(kernels: Any) -> Any:
    """Return the stand-in for cuBLASLt, or skip."""
    if kernels is not cuda_on_host.kernels():
        pytest.skip("the stand-in alone tells")
    return kernels.epilogues().stand_in


def numbers(*shape: int) -> Any:
    return RNG.normal(size=shape).astype("float32")


def new(*shape: int) -> Any:
    return get_backend().asarray(np.full(shape, np.nan, "float32"))


def near(found: Any, expected: Any, inner: int) -> None:
    """Within the bound of a product of that inner dimension, and of a sum of as many numbers; see docs/parity.md."""
    np.testing.assert_allclose(to_numpy(found), expected, rtol=0, atol=(inner + 2) * 2.0**-24 * 8 * inner**0.5)


SIZES = [(1, 4, 4), (3, 5, 8), (12, 6, 132), (64, 33, 20), (7, 1, 256)]


@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_there(products: Any, sizes: tuple[int, int, int], by_columns: bool) -> None:
    m, k, n = sizes
    X, W, w0 = numbers(m, k), numbers(k, n), numbers(1, n)
    put, out = get_backend().asarray, new(m, n)
    placed = put(X.T.copy()).T if by_columns else put(X)
    assert products.linear(placed, put(W), put(w0), out)
    near(out, X.astype("f8") @ W + w0, k)
    mask = products.new_mask(m, n)
    assert products.relu(placed, put(W), put(w0), out, mask)
    near(out, np.maximum(X.astype("f8") @ W + w0, 0.0), k)


@pytest.mark.parametrize("sizes", SIZES)
def test_back(products: Any, sizes: tuple[int, int, int]) -> None:
    """The mask of a layer of k units, through the weights of the next one, of n units."""
    m, k, n = sizes
    put, before, W = get_backend().asarray, numbers(m, 4 * k), numbers(4 * k, n)
    Y, mask = new(m, 4 * k), products.new_mask(m, 4 * k)
    assert products.relu(put(before), put(np.eye(4 * k, dtype="f4")), put(np.zeros((1, 4 * k), "f4")), Y, mask)
    G, grad, sums = numbers(m, n), new(m, 4 * k), new(1, 4 * k)
    assert products.relu_backward(put(G), put(W), mask, grad, sums)
    expected = (G.astype("f8") @ W.T) * (before > 0.0)
    near(grad, expected, n)
    near(sums, expected.sum(axis=0, keepdims=True), n + m)
    grad_W, sums = new(4 * k, n), new(1, n)
    assert products.weights_backward(put(before), put(G), grad_W, sums)
    near(grad_W, before.T.astype("f8") @ G, m)
    near(sums, G.sum(axis=0, keepdims=True, dtype="f8"), m)


def test_what_it_leaves_to_the_kernels(kernels: Any, products: Any) -> None:
    put, X, W, w0 = get_backend().asarray, numbers(3, 5), numbers(5, 4), numbers(1, 4)
    wide = put(np.zeros((3, 4)))
    assert not products.linear(put(X.astype("f8")), put(W.astype("f8")), put(w0.astype("f8")), wide)
    assert not products.linear(put(X), put(W), put(numbers(1, 8))[:, 1:5], new(3, 4))  # 4 bytes off
    by_columns = put(np.zeros((4, 3), "f4")).T
    assert not products.linear(put(X), put(W), put(w0), by_columns)
    assert products.linear(put(X), put(W), put(w0), new(3, 4))


def test_what_it_has_no_algorithm_for(kernels: Any, products: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    played(kernels).without = {cublas_lt_on_host.BIAS}
    try:
        put, before = get_backend().asarray, len(cuda_on_host.machine.launched)
        X, W, w0, out = put(numbers(2, 9)), put(numbers(9, 4)), put(numbers(1, 4)), new(2, 4)
        before = len(cuda_on_host.machine.launched)
        assert not products.linear(X, W, w0, out)
        assert len(cuda_on_host.machine.launched) == before
    finally:
        played(kernels).without = set()


def test_descriptors_are_made_once(kernels: Any, products: Any) -> None:
    lt, put = played(kernels), get_backend().asarray
    given = put(numbers(2, 10)), put(numbers(10, 4)), put(numbers(1, 4)), new(2, 4)
    assert products.linear(*given)
    things, asked = len(lt.things), lt.asked
    for _ in range(3):
        assert products.linear(*given)
    assert (len(lt.things), lt.asked) == (things, asked)


def test_other_memory_of_the_same_shape(products: Any) -> None:
    put, W, w0 = get_backend().asarray, numbers(5, 4), numbers(1, 4)
    for _ in range(3):
        X, w0, out = numbers(3, 5), numbers(1, 4), new(3, 4)
        assert products.linear(put(X), put(W), put(w0), out)
        near(out, X.astype("f8") @ W + w0, 5)


def test_a_plan_gives_back_what_it_made(kernels: Any, products: Any) -> None:
    lt, blas = played(kernels), kernels.blas()[0]
    A, B, D = (products._Side(get_backend().asarray(numbers(4, 4))) for _ in range(3))
    before = set(lt.things)
    plan = products.Plan(products.BIAS, blas.COMPUTE_32F, A, B, D, (D.array, None))
    assert set(lt.things) - before
    del plan
    assert set(lt.things) == before


# ------------------------------------------------------------------ trainings

X, LABELS = numbers(30, 6), RNG.integers(0, 4, size=30)
BATCHES = [slice(0, 12), slice(12, 24), slice(24, 30)]


def frozen(layer: Dense) -> Dense:
    layer.trainable = False
    return layer


MODELS: dict[str, Any] = {
    "relu": lambda: [Dense(8, activation="relu"), Dense(8, activation="relu"), Dense(4)],
    "linear": lambda: [Dense(8), Dense(8), Dense(4)],
    "ends in relu": lambda: [Dense(8, activation="relu"), Dense(4, activation="relu")],
    "odd sizes": lambda: [Dense(7, activation="relu"), Dense(5, activation="relu"), Dense(4)],
    "others between": lambda: [Dense(8, activation="relu"), LayerNorm(), Dense(8, activation="tanh"), Dropout(0.2),
                               Dense(8, activation="relu"), Dense(8, activation="gelu"), Dense(4)],
    "frozen": lambda: [Dense(8, activation="relu"), frozen(Dense(8, activation="relu")), Dense(4)],
    "no bias": lambda: [Dense(8, activation="relu", use_bias=False), Dense(4, use_bias=False)],
    "wide": lambda: [Dense(132, activation="relu"), Dense(260, activation="relu"), Dense(4)],
}  # fmt: skip
OPTIMIZERS = [
    Adam(CosineSchedule(0.05, 12)),
    Adam(0.01, weight_decay=0.1, no_decay=["w0"]),
    SGD(0.1, momentum=0.9, clip_norm=0.1),
]


def trained(kernels: Any, warm_up: int, layers: Any, optimizer: Any, loss: Any = None) -> tuple[Any, Any, Any]:
    """Return the step, the losses of some epochs, and what the model then has."""
    put = get_backend().asarray
    model = Sequential(layers(), input_shape=(6,), rng=0)
    model.initialize(optimizer)
    before, kernels.cupy_graph.WARM_UP = kernels.cupy_graph.WARM_UP, warm_up
    try:
        step, rng = FusedStep(model, loss or SoftmaxCrossEntropy(), (), 12), np.random.default_rng(7)
        y = LABELS if loss is None else np.eye(4, dtype="f4")[LABELS]
        losses = [step(put(X[rows]), put(y[rows]), None, rng)[0] for _ in range(4) for rows in BATCHES]
        step.hand_over()
    finally:
        kernels.cupy_graph.WARM_UP = before
    flat = {**flatten(model.params), **{f"state {k}": v for k, v in flatten(model.optimizer_state).items()}}
    return step, [float(value) for value in losses], {key: to_numpy(value) for key, value in flat.items()}


def same(kernels: Any, monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> FusedStep:
    """Train recorded and call by call, to the same bits; and without epilogues, to the same numbers."""
    step, losses, arrays = trained(kernels, 1, *arguments)
    _, expected, wanted = trained(kernels, NEVER, *arguments)
    assert losses == expected
    for key, value in wanted.items():
        np.testing.assert_array_equal(arrays[key], value, err_msg=key)
    assert step.unrecorded == ""
    assert step.recorder is not None
    assert len(step.recorder.graphs) == 2  # type: ignore[attr-defined]  # one for the smaller batch
    monkeypatch.setenv("DENSE_XP_CUBLASLT", "0")
    plain, expected, wanted = trained(kernels, NEVER, *arguments)
    monkeypatch.setenv("DENSE_XP_CUBLASLT", "1")
    assert not any(isinstance(stage, EpilogueStage) for stage in plain.stages)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for key, value in wanted.items():
        np.testing.assert_allclose(arrays[key], value, rtol=1e-3, atol=1e-4, err_msg=key)
    return step


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model(kernels: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    step = same(kernels, monkeypatch, MODELS[name], Adam(0.01))
    assert any(isinstance(stage, EpilogueStage) for stage in step.stages)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_optimizers(kernels: Any, monkeypatch: pytest.MonkeyPatch, optimizer: Any) -> None:
    same(kernels, monkeypatch, MODELS["relu"], optimizer)


def test_another_loss(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    same(kernels, monkeypatch, MODELS["relu"], Adam(0.01), MeanSquaredError())


@pytest.mark.parametrize("tile", [1, 24])
def test_gradients_in_parts(kernels: Any, monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    monkeypatch.setattr("dense_xp.training.fused.stages.TILE", tile)
    same(kernels, monkeypatch, MODELS["relu"], Adam(0.01))


@pytest.mark.parametrize("missing", [4, 134, 152, 256])
def test_where_one_of_them_is_missing(kernels: Any, monkeypatch: pytest.MonkeyPatch, missing: int) -> None:
    lt = played(kernels)
    monkeypatch.setattr(lt, "without", {missing})
    monkeypatch.setattr(lt, "launched", [])
    kernels.epilogues()._of_this_thread.__dict__.clear()  # what was found for these shapes before
    same(kernels, monkeypatch, MODELS["relu"], Adam(0.01))
    kernels.epilogues()._of_this_thread.__dict__.clear()
    expected = {4, 134, 152, 256} - ({134, 152} if missing == 134 else {missing})
    assert set(lt.launched) == expected


def launches(kernels: Any) -> int:
    """Return how many launches there are in a recorded step."""
    step, *_ = trained(kernels, 1, MODELS["relu"], Adam(0.01))
    (first, *_) = step.recorder.graphs.values()
    return len(first._graph.recording.work)


def test_launches_that_are_saved(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of bias and activation, two of a derivative with sums, one of sums: as docs/performance.md says."""
    played(kernels)
    with_epilogues = launches(kernels)
    monkeypatch.delenv("DENSE_XP_CUBLASLT")
    assert launches(kernels) - with_epilogues == 6


def test_it_is_off_unless_it_is_asked_for(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.epilogues() is not None
    for value in ("0", ""):
        monkeypatch.setenv("DENSE_XP_CUBLASLT", value)
        assert kernels.epilogues() is None
    monkeypatch.delenv("DENSE_XP_CUBLASLT")
    assert kernels.epilogues() is None


def test_without_cublas_it_says_so(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "blas", lambda: (None, "there are none"))
    with pytest.raises(RuntimeError, match="there are none"):
        kernels.blas_lt.__wrapped__()


# ------------------------------------------------------------------ what the stand-in would notice


@pytest.mark.parametrize(
    ("name", "value"),
    [("BITS", 8), ("BGRADA", 512), ("AUX_LD", 11), ("RELU_AUX_BIAS", 6), ("MIN_ALIGNMENT", (5, 5, 7, 8))],
)
def test_faults_that_the_stand_in_shows(
    kernels: Any, products: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    played(kernels)
    monkeypatch.setattr(products, name, value)
    products._of_this_thread.__dict__.clear()
    with pytest.raises((AssertionError, KeyError, RuntimeError)):
        trained(kernels, 1, MODELS["relu"], Adam(0.01))
    products._of_this_thread.__dict__.clear()


def test_sums_that_lie_where_others_compute(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of a bias is written before that of the next layer's weights, in memory that was shared."""
    played(kernels)
    monkeypatch.setattr(EpilogueStage, "plan", lambda self, gradient: shared(self, gradient))
    with pytest.raises(AssertionError):
        same(kernels, monkeypatch, MODELS["relu"], Adam(0.01))


def shared(stage: Any, gradient: Any) -> None:
    apart, stage.apart = stage.apart, False
    space = stage.space
    super(EpilogueStage, stage).plan(space.__dict__.setdefault("one", space.empty(1000)))
    stage.apart = apart
    if stage.applied == "relu":
        shape = space.batch_size, stage.W.shape[1]
        stage.all_masks, stage.gradients = space.epilogues.new_mask(*shape), space.empty(*shape)


# ------------------------------------------------------------------ the library itself, where it is installed


@pytest.fixture
def real() -> Any:
    """The module, with NVIDIA's own library: that can be loaded without a device."""
    pytest.importorskip("cupy")
    pathfinder = pytest.importorskip("cuda.pathfinder")
    try:
        pathfinder.load_nvidia_dynamic_lib("cublasLt")
    except pathfinder.DynamicLibNotFoundError as error:
        pytest.skip(str(error))
    return importlib.import_module("dense_xp.kernels.cupy_epilogues")


@pytest.fixture
def header(real: Any) -> str:
    return declarations(real.library(), ("cublasLt.h",))


def test_the_functions_are_as_the_header_declares_them(real: Any, header: str) -> None:
    opaque = dict.fromkeys(
        ("cublasLtHandle_t", "cublasLtMatmulDesc_t", "cublasLtMatrixLayout_t", "cublasLtMatmulPreference_t",
         "cudaStream_t"), ctypes.c_void_p,
    )  # fmt: skip
    for name, parameters in real.PROTOTYPES.items():
        found = re.search(rf"cublasStatus_t CUBLASWINAPI {name}\(([^)]*)\);", header)
        assert found, name
        declared = [" ".join(text.split()).rpartition(" ")[0] for text in found[1].split(",")]
        kinds = [
            ctypes.c_void_p if "*" in text or "[" in text else (opaque | C_TYPES).get(kind, ctypes.c_int)
            for kind, text in zip(declared, found[1].split(","), strict=True)
        ]
        assert list(parameters) == kinds, name


def enumerated(header: str) -> dict[str, int]:
    """Return the constants of a header; some are made of others."""
    found: dict[str, int] = {}
    for name, value in re.findall(r"(CUBLASLT_\w+)\s*=\s*([^,}]+?)\s*[,}]", header):
        parts = [part.strip(" ()") for part in value.split("|")]
        if all(part in found or part.isdigit() for part in parts):
            found[name] = functools.reduce(operator.or_, (found.get(part) or int(part) for part in parts))
    return found


def test_the_constants_are_those_of_the_header(real: Any, header: str) -> None:
    named = enumerated(header)
    for name in ("TRANSA", "TRANSB", "EPILOGUE", "BIAS_POINTER"):
        assert getattr(real, name) == named[f"CUBLASLT_MATMUL_DESC_{name}"], name
    for name in ("AUX_POINTER", "AUX_LD"):
        assert getattr(real, name) == named[f"CUBLASLT_MATMUL_DESC_EPILOGUE_{name}"], name
    for name in ("BIAS", "RELU_AUX_BIAS", "DRELU_BGRAD", "BGRADA"):
        assert getattr(real, name) == named[f"CUBLASLT_EPILOGUE_{name}"], name
        assert getattr(cublas_lt_on_host, name) == getattr(real, name)
    preferences = {name: named[f"CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_{name}_BYTES"] for name in "ABCD"}
    assert tuple(preferences.values()) == real.MIN_ALIGNMENT
    assert named["CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES"] == real.MAX_WORKSPACE_BYTES
    statuses = declarations(real.library(), ("cublas_api.h",))
    assert re.search(rf"CUBLAS_STATUS_NOT_SUPPORTED\s*=\s*{real.NOT_SUPPORTED}\b", statuses)


def test_the_result_is_as_large_as_the_header_says(real: Any, header: str, tmp_path: Path) -> None:
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    structures = re.findall(r"typedef struct \{[^{}]*\} cublasLtMatmul(?:Algo_t|HeuristicResult_t);", header)
    assert len(structures) == 2
    fields = [name for name, _ in real.Result._fields_]
    sizes = ["sizeof(cublasLtMatmulHeuristicResult_t)"]
    sizes += [f"offsetof(cublasLtMatmulHeuristicResult_t, {name})" for name in fields]
    prints = " ".join(f'printf("%zu ", {size});' for size in sizes)
    lines = ["#include <cstddef>", "#include <cstdint>", "#include <cstdio>", "typedef int cublasStatus_t;"]
    (tmp_path / "size.cpp").write_text("\n".join([*lines, *structures, f"int main() {{ {prints} }}"]))
    subprocess.run([compiler, str(tmp_path / "size.cpp"), "-o", str(tmp_path / "size")], check=True)
    printed = subprocess.run([str(tmp_path / "size")], check=True, capture_output=True, text=True).stdout
    assert [int(n) for n in printed.split()] == [
        ctypes.sizeof(real.Result), *(getattr(real.Result, name).offset for name in fields)
    ]  # fmt: skip


def test_the_library_takes_the_descriptors(real: Any) -> None:
    """They are made on the host; without a handle it finds no algorithm, and says why in its own words."""

    class Side:
        how, shape, step, aligned = 0, (8, 4), 8, 16

    class Vector:
        class data:
            ptr = 1 << 20

        shape = 4, 16

    class Handle:
        pointer = None

    kept, real.cupy_blas.handle = real.cupy_blas.handle, Handle
    try:
        with pytest.raises(RuntimeError, match="cublasLtMatmulAlgoGetHeuristic: the library was not initialized"):
            real.Plan(real.RELU_AUX_BIAS, real.cupy_blas.COMPUTE_32F, Side, Side, Side, (Vector, Vector))
    finally:
        real.cupy_blas.handle = kept


@pytest.mark.parametrize(
    ("attribute", "number"), [(7, ctypes.c_uint64(4)), (12, ctypes.c_int32(128)), (8, ctypes.c_int32(0))]
)
def test_the_library_refuses_a_number_of_another_size(real: Any, attribute: int, number: Any) -> None:
    """As the stand-in does."""
    library, place = real.library(), ctypes.c_void_p()
    library.cublasLtMatmulDescCreate(ctypes.byref(place), 68, 0)
    with pytest.raises(RuntimeError, match="cublasLtMatmulDescSetAttribute"):
        library.cublasLtMatmulDescSetAttribute(place, attribute, ctypes.byref(number), ctypes.sizeof(number))
    assert cublas_lt_on_host.SIZES[attribute] != ctypes.sizeof(number)
    library.cublasLtMatmulDescDestroy(place)
