"""Each kernel against the pure function that it stands for, within the rounding-error bound of that function."""

from __future__ import annotations

import ast
import importlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_api_compat import array_namespace

from dense_xp import (
    ELU,
    GELU,
    SELU,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Dense,
    Dropout,
    LayerNorm,
    LeakyReLU,
    Lion,
    Mish,
    RMSprop,
    Sequential,
    SiLU,
    Softmax,
    Softplus,
    get_backend,
    kernels,
)
from dense_xp.backend import to_numpy, use_backend
from dense_xp.evidence import parity, rounding
from dense_xp.evidence.parity import Case, Result
from dense_xp.kernels import numpy as host
from dense_xp.layers.activations import ACTIVATIONS
from dense_xp.layers.layer import Layer
from dense_xp.learning.losses import MeanSquaredError, SoftmaxCrossEntropy
from dense_xp.learning.optimizer import Optimizer
from dense_xp.training.fused import stages
from dense_xp.training.fused.updates import Update
from tests.kernels.kernel_sets import KERNEL_SETS, kernel_set

RNG = np.random.default_rng(0)
SHAPES = ((1, 1), (3, 7), (64, 33), (200, 100))
OPTIMIZERS: tuple[Optimizer, ...] = (
    SGD(0.1),
    SGD(0.1, weight_decay=0.1),
    SGD(0.1, momentum=0.9),
    SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    RMSprop(0.1, weight_decay=0.1),
    RMSprop(0.1, momentum=0.9),
    RMSprop(0.1, momentum=0.9, weight_decay=0.1),
    Adam(0.1),
    Adam(0.1, beta_1=0.0),
    AdamW(0.1),
    Adagrad(0.1, weight_decay=0.1),
    Lion(0.1, weight_decay=0.1),
)


@pytest.fixture(params=KERNEL_SETS)
def kernel(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The kernels of one library."""
    module, chosen = kernel_set(request.param)
    with use_backend(chosen), chosen.scope():
        yield module


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def copied(array: Any) -> Any:
    return array_namespace(array).asarray(array, copy=True)


def of_dtype(loss: Any, dtype: str) -> Any:
    """A loss as an array: the host's kernels return Python numbers."""
    return np.asarray(loss, dtype=dtype) if isinstance(loss, float) else loss


def like(array: Any) -> Any:
    return array_namespace(array).empty_like(array)


def held(case: Case, twin: Callable[[dict[str, Any]], dict[str, Any]], dtype: str) -> Result:
    """Run the twin on plain arrays, and the case's own function for the exact result and the bound."""

    def function(arrays: dict[str, Any]) -> dict[str, Any]:
        plain = not any(isinstance(array, rounding.Bounded) for array in arrays.values())
        return twin({key: copied(array) for key, array in arrays.items()}) if plain else case.function(arrays)

    result = parity.measure(Case(case.name, case.shape, function, case.inputs), get_backend(), dtype)
    assert result.compared
    assert result.share <= 1, result
    return result


# ------------------------------------------------------------------ layers


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", [None, "relu", "sigmoid", "tanh"])
def test_bias_and_activation(kernel: Any, dtype: str, shape: tuple[int, int], activation: str | None) -> None:
    name = activation or "linear"
    if not hasattr(kernel, name):
        pytest.skip("the activation's pure functions serve")
    # the identity as weights: what the kernel does with the product is all that is left
    layer = Dense(shape[1], activation=activation)
    case = parity.layer_case(layer, RNG.normal(size=shape), RNG)
    inputs = {**case.inputs, "param.W": np.eye(shape[1]), "param.w0": RNG.normal(size=(1, shape[1]))}

    def twin(arrays: dict[str, Any]) -> dict[str, Any]:
        Y = arrays["X"] @ arrays["param.W"]
        getattr(kernel, name)(Y, arrays["param.w0"])
        results = {"Y": copied(Y)}
        grad_w0 = like(arrays["param.w0"])
        getattr(kernel, f"{name}_backward")(arrays["grad_Y"], Y, grad_w0)
        return {**results, "grad_X": Y, "grad_w0": grad_w0}

    held(Case(case.name, case.shape, lambda a: _without(case.function(a), "grad_W"), inputs), twin, dtype)


CURVED = (LeakyReLU(0.3), ELU(1.7), SELU(), GELU(), SiLU(), Mish(), Softplus())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", CURVED, ids=repr)
def test_activations_that_keep_their_derivative(
    kernel: Any, dtype: str, shape: tuple[int, int], activation: Layer
) -> None:
    name, constants = curve_of(kernel, activation)
    case = parity.layer_case(Dense(shape[1], activation=activation), 6 * RNG.normal(size=shape), RNG)
    inputs = {**case.inputs, "param.W": np.eye(shape[1]), "param.w0": RNG.normal(size=(1, shape[1]))}

    def twin(arrays: dict[str, Any]) -> dict[str, Any]:
        Z = arrays["X"] @ arrays["param.W"]
        Y, grad_w0 = like(Z), like(arrays["param.w0"])
        kernel.activation(name, constants, Z, arrays["param.w0"], Y)
        kernel.activation_backward(arrays["grad_Y"], Z, grad_w0)
        return {"Y": Y, "grad_X": Z, "grad_w0": grad_w0}

    held(Case(case.name, case.shape, lambda a: _without(case.function(a), "grad_W"), inputs), twin, dtype)


@pytest.mark.parametrize("activation", CURVED, ids=repr)
def test_activations_far_out(kernel: Any, dtype: str, activation: Any) -> None:
    name, constants = curve_of(kernel, activation)
    put = get_backend().asarray
    X = np.asarray([[math.nan, math.inf, -math.inf, 0.0, -0.0, 1e30, -1e30, 90.0, -90.0, -12.0, 1e-30]], dtype)
    with np.errstate(all="ignore"):
        wanted, cache = activation.function(X)
        slope = activation.derivative(cache)
    Z, Y = put(X.copy()), put(np.zeros_like(X))
    kernel.activation(name, constants, Z, put(np.zeros_like(X)), Y)
    tolerance = {"rtol": 2000 * np.finfo(dtype).eps, "atol": np.finfo(dtype).tiny}
    np.testing.assert_allclose(to_numpy(Y), wanted, **tolerance)
    np.testing.assert_allclose(to_numpy(Z), slope, **tolerance)


def curve_of(kernel: Any, activation: Layer) -> tuple[str, tuple[float, ...]]:
    """Return what the kernel calls an activation, and its constants."""
    if not hasattr(kernel, "activation"):
        pytest.skip("the activation's pure functions serve")
    return stages._CURVES[type(activation)](activation)


def test_every_activation_of_the_package_has_kernels_or_is_a_function_of_rows() -> None:
    assert set(stages._APPLIED) | set(stages._CURVES) | {Softmax} == set(ACTIVATIONS.values())
    assert {type(activation) for activation in CURVED} == set(stages._CURVES)


def _without(results: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in results.items() if key != name}


@pytest.mark.parametrize("n", [1, 5, 32])
@pytest.mark.parametrize("widths", [(1, 1), (6, 5, 3), (64, 64, 64, 1), (33, 7)])
@pytest.mark.parametrize("last", [None, "relu"])
def test_chain(kernel: Any, dtype: str, n: int, widths: tuple[int, ...], last: str | None) -> None:
    if not hasattr(kernel, "chain"):
        pytest.skip("each layer is a stage of its own")
    activations = [*["relu"] * (len(widths) - 2), last]
    model = Sequential([Dense(m, activation=a) for m, a in zip(widths[1:], activations, strict=True)])
    case = parity.layer_case(model, RNG.normal(size=(n, widths[0])), RNG)

    def twin(arrays: dict[str, Any]) -> dict[str, Any]:
        X = arrays["X"]
        own = {key.removeprefix("param."): value for key, value in arrays.items() if key.startswith("param.")}
        params = np.concatenate([value.reshape(-1) for value in own.values()])
        layers = params, np.asarray(widths), np.asarray([a == "relu" for a in activations])
        outputs, grads, scratch = np.empty(n * sum(widths[1:]), dtype), like(params), np.empty(n * max(widths), dtype)
        kernel.chain(np.asfortranarray(X), *layers, outputs)  # whatever their memory looks like
        Y = copied(outputs[-n * widths[-1] :]).reshape(n, -1)
        X.flags.writeable = False
        kernel.chain_backward(X, arrays["grad_Y"], *layers, outputs, grads, scratch, True)
        results = {"Y": Y, "grad_X": scratch[: X.size].reshape(X.shape)}
        for key, value in own.items():
            results[f"grad_{key}"], grads = grads[: value.size].reshape(value.shape), grads[value.size :]
        return results

    held(case, twin, dtype)


@pytest.mark.parametrize("n", [1, 3, 4, 7, 32])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (8, 40), (203, 33)])
@pytest.mark.parametrize("piece", [1, 150, 1 << 21])
def test_int8_product(dtype: str, n: int, shape: tuple[int, int], piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the bound, and the same bits for any number of threads and whatever else is in the batch."""
    kernel = pytest.importorskip("dense_xp.kernels.numba_int8")
    from dense_xp.kernels import numba_team

    monkeypatch.setattr(kernel, "PIECE", piece)
    inputs = {"X": RNG.normal(size=(n, shape[0])), "Q": RNG.integers(-127, 128, size=shape).astype("float64")}

    def product(X: Any, Q: Any) -> Any:
        Z = np.full((len(X), shape[1]), math.nan, dtype)
        kernel.int8_product(X, Q.astype("int8"), Z)
        return Z

    def twin(arrays: dict[str, Any]) -> dict[str, Any]:
        X, Q = arrays["X"], arrays["Q"]
        X.flags.writeable = False
        Z = product(X, Q)
        np.testing.assert_array_equal(product(np.asfortranarray(X), np.asfortranarray(Q)), Z)
        np.testing.assert_array_equal(np.concatenate([product(X[i : i + 1], Q) for i in range(n)]), Z)
        with monkeypatch.context() as patch:
            patch.setattr(numba_team, "allowed_threads", lambda: 1)
            np.testing.assert_array_equal(product(X, Q), Z)
        return {"Z": Z}

    held(Case("X Q", str(shape), lambda arrays: {"Z": arrays["X"] @ arrays["Q"]}, inputs), twin, dtype)


def test_relu_passes_nan_on_and_stops_infinity(kernel: Any, dtype: str) -> None:
    put = get_backend().asarray
    Z = put(np.asarray([[math.nan, math.inf, -math.inf, -0.0]], dtype=dtype))
    kernel.relu(Z, put(np.zeros((1, 4), dtype=dtype)))
    np.testing.assert_array_equal(to_numpy(Z), [[math.nan, math.inf, 0.0, 0.0]])


def test_sigmoid_and_tanh_far_out(kernel: Any, dtype: str) -> None:
    if not hasattr(kernel, "sigmoid"):
        pytest.skip("the activation's pure functions serve")
    put = get_backend().asarray
    for name, wanted in (("sigmoid", [math.nan, 1.0, 0.0, 0.5, 0.0]), ("tanh", [math.nan, 1.0, -1.0, 0.0, -1.0])):
        Z = put(np.asarray([[math.nan, math.inf, -math.inf, 0.0, -1e30]], dtype=dtype))
        getattr(kernel, name)(Z, put(np.zeros((1, 5), dtype=dtype)))
        np.testing.assert_array_equal(to_numpy(Z), [wanted])


@pytest.mark.parametrize("shape", SHAPES)
def test_dropout(kernel: Any, dtype: str, shape: tuple[int, int]) -> None:
    case = parity.layer_case(Dropout(0.3), RNG.normal(size=shape), RNG)

    def twin(arrays: dict[str, Any]) -> dict[str, Any]:
        Y, grad_X = like(arrays["X"]), like(arrays["X"])
        kernel.dropout(arrays["X"], arrays["noise"], 1.0 / (1.0 - 0.3), Y)
        kernel.dropout(arrays["grad_Y"], arrays["noise"], 1.0 / (1.0 - 0.3), grad_X)
        return {"Y": Y, "grad_X": grad_X}

    held(case, twin, dtype)


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_layer_norm(kernel: Any, dtype: str, shape: tuple[int, int]) -> None:
    if not hasattr(kernel, "layer_norm"):
        pytest.skip("the layer's pure functions serve")
    case = parity.layer_case(LayerNorm(), RNG.normal(size=shape), RNG)

    def twin(arrays: dict[str, Any]) -> dict[str, Any]:
        X, gamma, beta = arrays["X"], arrays["param.gamma"], arrays["param.beta"]
        Y, normed, inverse = like(X), like(X), like(X[:, :1])
        kernel.layer_norm(X, gamma, beta, 1e-5, normed, inverse, Y)
        grads = {"grad_gamma": like(gamma), "grad_beta": like(beta), "grad_X": like(X)}
        kernel.layer_norm_backward(arrays["grad_Y"], gamma, normed, inverse, *grads.values())
        return {"Y": Y, **grads}

    held(case, twin, dtype)


@pytest.mark.parametrize("shape", [(200, 100), (3, 7)])
def test_blocks_as_large_as_on_a_device(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]) -> None:
    module, chosen = kernel_set("cupy-on-the-host")
    monkeypatch.setattr(module, "ROWS", 32)
    monkeypatch.setattr(module, "THREADS", 256)
    with use_backend(chosen):
        test_bias_and_activation(module, "float32", shape, "relu")
        test_layer_norm(module, "float32", shape)
        test_softmax_cross_entropy(module, "float32", shape, 0.1)
        test_squared_error(module, "float32", shape)


# ------------------------------------------------------------------ losses


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(1, 2), (7, 3), (200, 10), (16, 1000)])
def test_softmax_cross_entropy(kernel: Any, dtype: str, shape: tuple[int, int], smoothing: float) -> None:
    labels = RNG.integers(0, shape[1], size=shape[0])
    case = parity.loss_case(SoftmaxCrossEntropy(smoothing), 5 * RNG.normal(size=shape), labels)

    def twin(arrays: dict[str, Any]) -> dict[str, Any]:
        Z = arrays["prediction"]
        value = kernel.softmax_cross_entropy(Z, arrays["target"], smoothing)
        return {"value": of_dtype(value, dtype), "gradient": Z}

    held(case, twin, dtype)


def test_softmax_cross_entropy_of_huge_logits(kernel: Any, dtype: str) -> None:
    put = get_backend().asarray
    Z = put(np.asarray([[1e30, -1e30], [1e30, 1e30]], dtype=dtype))
    assert float(kernel.softmax_cross_entropy(Z, put(np.asarray([0, 1])), 0.0)) == pytest.approx(0.5 * math.log(2))
    np.testing.assert_allclose(to_numpy(Z), [[0, 0], [0.25, -0.25]], atol=1e-7)


def test_softmax_cross_entropy_of_what_is_ruled_out(kernel: Any, dtype: str) -> None:
    put = get_backend().asarray
    Z = put(np.asarray([[0.0, -np.inf, 1.0], [-np.inf, 2.0, -np.inf]], dtype=dtype))
    value = kernel.softmax_cross_entropy(Z, put(np.asarray([2, 1])), 0.0)
    assert float(value) == pytest.approx(0.31326166 / 2, rel=1e-6)
    np.testing.assert_allclose(to_numpy(Z), [[0.13447071, 0, -0.13447071], [0, 0, 0]], rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_squared_error(kernel: Any, dtype: str, shape: tuple[int, int]) -> None:
    case = parity.loss_case(MeanSquaredError(), RNG.normal(size=shape), RNG.normal(size=shape))

    def twin(arrays: dict[str, Any]) -> dict[str, Any]:
        value = kernel.squared_error(arrays["prediction"], arrays["target"])
        return {"value": of_dtype(value, dtype), "gradient": arrays["prediction"]}

    held(case, twin, dtype)


# ------------------------------------------------------------------ optimizers


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("size", [1, 37, 40_000])  # the last is more than a block
def test_updates(kernel: Any, dtype: str, optimizer: Optimizer, size: int) -> None:
    case = parity.optimizer_case(optimizer, RNG.normal(size=size), [RNG.normal(size=size) for _ in range(3)])

    def twin(arrays: dict[str, Any]) -> dict[str, Any]:
        param = arrays["param"]
        update = Update(optimizer, kernel)
        state = {slot: copied(0.0 * param) for slot in update.slots}
        results = {}
        for i in range(3):
            grad = arrays[f"grad_{i}"]
            before = copied(grad)
            update.kernel(param, grad, *state.values(), *update.at(0.1, i + 1, True))
            np.testing.assert_array_equal(to_numpy(grad), to_numpy(before))
            results[f"step {i + 1}"] = copied(param)
        return results

    held(case, twin, dtype)


def test_every_optimizer_of_the_package_has_a_kernel() -> None:
    from dense_xp.learning.optimizers import OPTIMIZERS

    assert all(Update.serves(kind()) for kind in OPTIMIZERS.values())

    class Own(Adam):
        pass

    assert not Update.serves(Own())


# ------------------------------------------------------------------ which are taken


def test_numba_is_taken_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    numba = importlib.util.find_spec("numba") is not None
    assert ("numba" if numba else "numpy") == kernels.host_kernels().NAME
    kernels.host_kernels.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert kernels.host_kernels().NAME == "numpy"
    kernels.host_kernels.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setitem(__import__("sys").modules, "dense_xp.kernels.numba", None)  # an import that fails
    assert kernels.host_kernels().NAME == "numpy"
    kernels.host_kernels.cache_clear()


SOURCES = Path(kernels.__file__).parent
SETS = ("numpy", "numba", "torch", "cupy")


def parsed(name: str) -> ast.Module:
    """Return the source of a module of kernels, so that what cannot be imported here is looked at too."""
    return ast.parse((SOURCES / f"{name}.py").read_text(encoding="utf-8"))


def parameters(function: ast.FunctionDef) -> str:
    """Return the parameters of a function or method, without their types."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    for argument in arguments:
        argument.annotation = None
    return ast.unparse(function.args).removeprefix("self, ").removeprefix("self")


def methods(name: str, kind: str) -> dict[str, str | None]:
    """Return the methods of a class with their parameters, None for those of a function from elsewhere."""
    body = next(node for node in parsed(name).body if isinstance(node, ast.ClassDef) and node.name == kind).body
    found: dict[str, str | None] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = parameters(node)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = None
    return found


def public(found: dict[str, str | None]) -> dict[str, str | None]:
    return {name: own for name, own in found.items() if not name.startswith("_")}


def kernels_in(name: str) -> dict[str, str | None]:
    """Return the kernels of a set with their parameters, None for a function from another library."""
    found: dict[str, str | None] = {}
    body = parsed(name).body
    for node in [*body, *(inner for outer in body if isinstance(outer, ast.If) for inner in outer.body)]:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = parameters(node)
        elif isinstance(node, ast.ClassDef):
            found[node.name] = methods(name, node.name)["__init__"]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = found.get(ast.unparse(node.value))
        elif isinstance(node, ast.ImportFrom) and node.module in (
            "dense_xp.kernels.numpy",
            "dense_xp.kernels.numba_few",
            "dense_xp.kernels.numba_int8",
            "dense_xp.kernels.numba_panels",
            "dense_xp.kernels.numba_updates",
        ):
            others = kernels_in(node.module.rpartition(".")[2])
            found |= {alias.name: others.get(alias.name) for alias in node.names}
    helpers = {"Array", "blas", "blas_lt"}
    return {name: own for name, own in public(found).items() if not name.isupper() and name not in helpers}


def breaches(found: dict[str, str | None], contract: dict[str, Any]) -> list[str]:
    """Return the names that a contract does not have, and those with other parameters."""
    return [name for name, own in found.items() if name not in contract or own not in (None, contract[name])]


@pytest.mark.parametrize("name", SETS)
def test_a_set_keeps_the_contract(name: str) -> None:
    found, contract = kernels_in(name), kernels.REQUIRED | kernels.OPTIONAL
    assert not breaches(found, contract)
    assert set(kernels.REQUIRED) <= set(found)
    pairs = [own for own in contract if f"{own}_backward" in contract]
    assert all((own in found) == (f"{own}_backward" in found) for own in pairs)
    assert {own for own in found if found[own] is None} <= {"product"}  # NumPy's own


def test_numba_exports_all_that_it_has() -> None:
    numba = pytest.importorskip("dense_xp.kernels.numba")
    left_out = set() if importlib.util.find_spec("scipy") else {"chain", "chain_backward"}
    assert set(numba.__all__) - {"NAME"} == set(kernels_in("numba")) - left_out


@pytest.mark.parametrize("name", ["cupy", "torch"])
def test_a_lane_keeps_the_contract(name: str) -> None:
    found, contract = public(methods(f"{name}_lane", "Lane")), methods("__init__", "Lane")
    assert not breaches(found, contract)
    assert set(found) == set(contract)


def test_the_recorder_keeps_the_contract() -> None:
    found, contract = methods("cupy_graph", "Recorder"), methods("__init__", "Recorder")
    assert found["__call__"] == contract["__call__"]
    attributes = [node for node in ast.walk(parsed("cupy_graph")) if isinstance(node, ast.Attribute)]
    assert {"numbers", "reason"} <= {node.attr for node in attributes if isinstance(node.ctx, ast.Store)}


def test_memory_starts_on_a_cache_line() -> None:
    for shape in ((), (1,), (3, 5), (1000, 1000)):
        for dtype in ("float32", "float64"):
            array = host.empty(shape, np.dtype(dtype), "cpu")
            assert array.shape == shape
            assert array.dtype == dtype
            assert array.ctypes.data % 64 == 0
            assert array.flags.carray


def test_clipping(kernel: Any, dtype: str) -> None:
    put = get_backend().asarray
    grads = [put(np.asarray([3.0, -0.5], dtype=dtype)), put(np.asarray([-4.0], dtype=dtype))]
    kernel.clip_norm(grads, 100.0)
    np.testing.assert_array_equal(to_numpy(grads[0]), [3.0, -0.5])
    kernel.clip(grads[0], 1.0)
    np.testing.assert_array_equal(to_numpy(grads[0]), [1.0, -0.5])
    kernel.clip_norm(grads, 1.0)
    norm = math.sqrt(1.0 + 0.25 + 16.0)
    np.testing.assert_allclose(to_numpy(grads[1]), [-4.0 / norm], rtol=1e-6)
    np.testing.assert_allclose(to_numpy(grads[0]), [1.0 / norm, -0.5 / norm], rtol=1e-6)


def test_a_norm_that_is_no_number_is_not_hidden(kernel: Any, dtype: str) -> None:
    grads = [get_backend().asarray(np.asarray(values, dtype=dtype)) for values in ([math.nan, 1.0], [2.0])]
    kernel.clip_norm(grads, 1.0)
    assert all(np.isnan(to_numpy(grad)).all() for grad in grads)


def test_clip_norm_of_gradients_whose_squares_overflow(kernel: Any) -> None:
    put = get_backend().asarray
    for dtype, size in (("float32", 1e25), ("float64", 1e120)):
        grads = [put(np.asarray([3.0, 0.0]) * size, dtype), put(np.asarray([-4.0]) * size, dtype)]
        kernel.clip_norm(grads, 1.0)
        np.testing.assert_allclose(np.concatenate([to_numpy(grad) for grad in grads]), [0.6, 0.0, -0.8], rtol=1e-6)
