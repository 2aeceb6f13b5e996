"""Each kernel against the pure function that it stands for, within the rounding-error bound of that function."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dense_xp import SGD, Adagrad, Adam, AdamW, Dense, Dropout, LayerNorm, Lion, RMSprop, get_backend, kernels, parity
from dense_xp.fused import Update
from dense_xp.losses import MeanSquaredError, SoftmaxCrossEntropy
from dense_xp.optimizers import Optimizer
from dense_xp.parity import Case, Result

RNG = np.random.default_rng(0)
SHAPES = ((1, 1), (3, 7), (64, 33), (200, 100))
OPTIMIZERS: tuple[Optimizer, ...] = (
    SGD(0.1),
    SGD(0.1, weight_decay=0.1),
    SGD(0.1, momentum=0.9),
    SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    RMSprop(0.1, weight_decay=0.1),
    Adam(0.1),
    Adam(0.1, beta_1=0.0),
    AdamW(0.1),
    Adagrad(0.1, weight_decay=0.1),
    Lion(0.1, weight_decay=0.1),
)


@pytest.fixture(params=["numpy", "numba"])
def kernel(request: pytest.FixtureRequest) -> Any:
    """The kernels of one library."""
    pytest.importorskip(request.param)
    return importlib.import_module(f"dense_xp.kernels.{request.param}")


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def held(case: Case, twin: Callable[[dict[str, Any]], dict[str, Any]], dtype: str) -> Result:
    """Run the twin on NumPy, and the case's own function for the exact result and the bound."""

    def function(arrays: dict[str, Any]) -> dict[str, Any]:
        plain = all(isinstance(array, np.ndarray) for array in arrays.values())
        return twin({key: array.copy() for key, array in arrays.items()}) if plain else case.function(arrays)

    result = parity.measure(Case(case.name, case.shape, function, case.inputs), get_backend("numpy"), dtype)
    assert result.compared
    assert result.share <= 1, result
    return result


# ------------------------------------------------------------------ layers


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_bias_and_activation(kernel: Any, dtype: str, shape: tuple[int, int], activation: str | None) -> None:
    name = activation or "linear"
    # the identity as weights: what the kernel does with the product is all that is left
    layer = Dense(shape[1], activation=activation)
    case = parity.layer_case(layer, RNG.normal(size=shape), RNG)
    inputs = {**case.inputs, "param.W": np.eye(shape[1]), "param.w0": RNG.normal(size=(1, shape[1]))}

    def twin(arrays: dict[str, Any]) -> dict[str, Any]:
        Y = arrays["X"] @ arrays["param.W"]
        getattr(kernel, name)(Y, arrays["param.w0"])
        results = {"Y": Y.copy()}
        grad_w0 = np.empty_like(arrays["param.w0"])
        getattr(kernel, f"{name}_backward")(arrays["grad_Y"], Y, grad_w0)
        return {**results, "grad_X": Y, "grad_w0": grad_w0}

    held(Case(case.name, case.shape, lambda a: _without(case.function(a), "grad_W"), inputs), twin, dtype)


def _without(results: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in results.items() if key != name}


def test_relu_passes_nan_on_and_stops_infinity(kernel: Any, dtype: str) -> None:
    Z = np.asarray([[math.nan, math.inf, -math.inf, -0.0]], dtype=dtype)
    kernel.relu(Z, np.zeros((1, 4), dtype=dtype))
    np.testing.assert_array_equal(Z, [[math.nan, math.inf, 0.0, 0.0]])


@pytest.mark.parametrize("shape", SHAPES)
def test_dropout(kernel: Any, dtype: str, shape: tuple[int, int]) -> None:
    case = parity.layer_case(Dropout(0.3), RNG.normal(size=shape), RNG)

    def twin(arrays: dict[str, Any]) -> dict[str, Any]:
        Y, grad_X = np.empty_like(arrays["X"]), np.empty_like(arrays["X"])
        kernel.dropout(arrays["X"], arrays["noise"], 1.0 / (1.0 - 0.3), Y)
        kernel.dropout(arrays["grad_Y"], arrays["noise"], 1.0 / (1.0 - 0.3), grad_X)
        return {"Y": Y, "grad_X": grad_X}

    held(case, twin, dtype)


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_layer_norm(kernel: Any, dtype: str, shape: tuple[int, int]) -> None:
    case = parity.layer_case(LayerNorm(), RNG.normal(size=shape), RNG)

    def twin(arrays: dict[str, Any]) -> dict[str, Any]:
        X, gamma, beta = arrays["X"], arrays["param.gamma"], arrays["param.beta"]
        Y, normed, inverse = np.empty_like(X), np.empty_like(X), np.empty_like(X[:, :1])
        kernel.layer_norm(X, gamma, beta, 1e-5, normed, inverse, Y)
        grads = {"grad_gamma": np.empty_like(gamma), "grad_beta": np.empty_like(beta), "grad_X": np.empty_like(X)}
        kernel.layer_norm_backward(arrays["grad_Y"], gamma, normed, inverse, *grads.values())
        return {"Y": Y, **grads}

    held(case, twin, dtype)


# ------------------------------------------------------------------ losses


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(1, 2), (7, 3), (200, 10), (16, 1000)])
def test_softmax_cross_entropy(kernel: Any, dtype: str, shape: tuple[int, int], smoothing: float) -> None:
    labels = RNG.integers(0, shape[1], size=shape[0])
    case = parity.loss_case(SoftmaxCrossEntropy(smoothing), 5 * RNG.normal(size=shape), labels)

    def twin(arrays: dict[str, Any]) -> dict[str, Any]:
        Z = arrays["prediction"]
        value = kernel.softmax_cross_entropy(Z, arrays["target"], smoothing)
        assert type(value) is float
        return {"value": np.asarray(value, dtype=dtype), "gradient": Z}

    held(case, twin, dtype)


def test_softmax_cross_entropy_of_huge_logits(kernel: Any, dtype: str) -> None:
    Z = np.asarray([[1e30, -1e30], [1e30, 1e30]], dtype=dtype)
    assert kernel.softmax_cross_entropy(Z, np.asarray([0, 1]), 0.0) == pytest.approx(0.5 * math.log(2))
    np.testing.assert_allclose(Z, [[0, 0], [0.25, -0.25]], atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_squared_error(kernel: Any, dtype: str, shape: tuple[int, int]) -> None:
    case = parity.loss_case(MeanSquaredError(), RNG.normal(size=shape), RNG.normal(size=shape))

    def twin(arrays: dict[str, Any]) -> dict[str, Any]:
        value = kernel.squared_error(arrays["prediction"], arrays["target"])
        return {"value": np.asarray(value, dtype=dtype), "gradient": arrays["prediction"]}

    held(case, twin, dtype)


# ------------------------------------------------------------------ optimizers


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("size", [1, 37, 40_000])  # the last is more than a block
def test_updates(kernel: Any, dtype: str, optimizer: Optimizer, size: int) -> None:
    case = parity.optimizer_case(optimizer, RNG.normal(size=size), [RNG.normal(size=size) for _ in range(3)])

    def twin(arrays: dict[str, Any]) -> dict[str, Any]:
        param = arrays["param"]
        update = Update(optimizer, kernel)
        state = {slot: np.zeros_like(param) for slot in update.slots}
        results = {}
        for i in range(3):
            grad = arrays[f"grad_{i}"]
            before = grad.copy()
            update.kernel(param, grad, *state.values(), *update.at(0.1, i + 1))
            np.testing.assert_array_equal(grad, before)
            results[f"step {i + 1}"] = param.copy()
        return results

    held(case, twin, dtype)


def test_every_optimizer_of_the_package_has_a_kernel() -> None:
    from dense_xp.optimizers import _OPTIMIZERS

    assert all(Update.serves(kind()) for kind in _OPTIMIZERS.values())
    assert not Update.serves(RMSprop(momentum=0.5))  # this one takes its pure function

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


def test_both_have_the_same_kernels() -> None:
    pytest.importorskip("numba")
    plain, compiled = (importlib.import_module(f"dense_xp.kernels.{name}") for name in ("numpy", "numba"))
    names = {name for name, value in vars(plain).items() if callable(value) and value.__module__ == plain.__name__}
    assert {name for name in names if not name.startswith("_")} | {"NAME"} == set(compiled.__all__)
