"""Parity: every backend against the bound that theory gives, and what a bound must notice."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from dense_xp import SGD, Adam, Dense, Dropout, Layer, LayerNorm, Sequential, Tanh, cli, get_backend
from dense_xp.backend import Backend, to_numpy
from dense_xp.evidence import parity, rounding
from dense_xp.evidence.parity import Case, cases, exact, layer_case, measure, precision_of, share_of_bound
from tests.comparing import assert_same_kind

DTYPES = pytest.mark.parametrize("dtype", parity.DTYPES)
SMALL = parity.SHAPES[:4]


# what a library is known not to do; strict, so that a release that does it is noticed
KNOWN = {
    ("dpnp", "float16"): "dpnp multiplies no float16 vector with a matrix, and rounds float16 products twice",
    ("dpnp", "broadcast"): "dpnp multiplies no matrix whose rows are one row repeated",
}


def needs(backend: Backend, what: str, request: pytest.FixtureRequest | None = None) -> None:
    """Skip a dtype that the backend does not have; expect the failures that are known."""
    if what in parity.DTYPES:
        try:
            backend.dtype(what)
        except TypeError as error:
            pytest.skip(str(error))
    if request is not None and (backend.name, what) in KNOWN:
        request.applymarker(pytest.mark.xfail(reason=KNOWN[backend.name, what], strict=True))


# ------------------------------------------------------------------ the matrix


@DTYPES
def test_every_number_of_the_matrix_is_within_its_bound(
    backend: Backend, dtype: str, request: pytest.FixtureRequest
) -> None:
    needs(backend, dtype, request)
    with np.errstate(all="ignore"):  # the matrix overflows on purpose
        results = [measure(case, backend, dtype) for case in cases(dtype, shapes=SMALL)]
    assert all(result.compared for result in results)
    worst = max(results, key=lambda result: result.share)
    assert worst.share <= 1, worst


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_whole_matrix_with_other_numbers(
    backend: Backend, dtype: str, seed: int, request: pytest.FixtureRequest
) -> None:
    needs(backend, dtype, request)
    shapes = [*parity.SHAPES, (1, 65536, 1), (257, 263, 269), (2, 2, 2, 2, 5, 3), (128, 784, 512), (4096, 3, 5)]
    with np.errstate(all="ignore"):
        for case in cases(dtype, seed, shapes):
            result = measure(case, backend, dtype)
            assert result.share <= 1, result
            assert result.compared


def test_the_long_inner_sum(backend: Backend) -> None:
    for dtype in ("float32", "float64"):
        rng = np.random.default_rng(0)
        result = measure(layer_case(Dense(2), rng.normal(size=(3, 2**16)), rng), backend, dtype)
        assert result.share <= 1, result


LAYOUTS: dict[str, Any] = {
    "C": lambda xp, put, x: put(np.ascontiguousarray(x)),
    "Fortran": lambda xp, put, x: xp.matrix_transpose(put(np.ascontiguousarray(x.T))),
    "host Fortran": lambda xp, put, x: put(np.asfortranarray(x)),
    "strided": lambda xp, put, x: put(np.repeat(np.repeat(x, 2, axis=0), 3, axis=1))[::2, ::3],
    "host strided": lambda xp, put, x: put(np.repeat(x, 2, axis=1)[:, ::2]),
    "negative": lambda xp, put, x: xp.flip(put(np.flip(x).copy())),
    "host negative": lambda xp, put, x: put(np.flip(np.flip(x).copy())),
    "host read-only": lambda xp, put, x: put(_read_only(x)),
    "offset": lambda xp, put, x: put(np.pad(x, 1))[1:-1, 1:-1],
}


def _read_only(x: Any) -> Any:
    x = x.copy()
    x.flags.writeable = False
    return x


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_memory_layout(backend: Backend, layout: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    case = layer_case(Dense(7, activation="tanh"), rng.normal(size=(5, 11)), rng)
    host = {key: value.astype(dtype) for key, value in case.inputs.items()}
    placed = {
        key: LAYOUTS[layout](backend.xp, lambda x: backend.asarray(x, dtype), value) for key, value in host.items()
    }
    for key, value in placed.items():
        np.testing.assert_array_equal(to_numpy(value), host[key])
    reference = exact(case, host, precision_of(backend, dtype))
    for output, value in backend.compile(case.function)(placed).items():
        assert_same_kind(value, backend, dtype, reference[output].shape)
        assert share_of_bound(to_numpy(value), reference[output])[0] <= 1, output


def test_broadcast_arrays(backend: Backend, request: pytest.FixtureRequest) -> None:
    """A batch and a gradient that are one row, repeated without a copy."""
    needs(backend, "broadcast", request)
    rng = np.random.default_rng(0)
    case = layer_case(Dense(7), np.broadcast_to(rng.normal(size=(1, 11)), (5, 11)), rng)
    case.inputs["grad_Y"] = np.broadcast_to(case.inputs["grad_Y"][:1], (5, 7))
    placed = {
        key: backend.xp.broadcast_to(backend.asarray(value[:1], "float32"), value.shape)
        if key in ("X", "grad_Y")
        else backend.asarray(value, "float32")
        for key, value in case.inputs.items()
    }
    reference = exact(case, {key: to_numpy(value) for key, value in placed.items()}, precision_of(backend, "float32"))
    for output, value in case.function(placed).items():
        assert share_of_bound(to_numpy(value), reference[output])[0] <= 1, output


@pytest.mark.parametrize("shape", [(0, 5), (0, 3, 5), (3, 0, 5)])
def test_batches_of_size_zero(backend: Backend, shape: tuple[int, ...]) -> None:
    for layer in (Dense(2), Dense(2, activation="gelu"), LayerNorm(), Tanh(), Dropout(0.5)):
        rng = np.random.default_rng(0)
        case = layer_case(layer, np.zeros(shape), rng)
        placed = {key: backend.asarray(v, "float32" if v.dtype.kind == "f" else None) for key, v in case.inputs.items()}
        results = case.function(placed)
        assert tuple(results["grad_X"].shape) == shape
        for output, value in results.items():
            if output not in ("Y", "grad_X"):
                np.testing.assert_array_equal(to_numpy(value), np.zeros(value.shape))


@DTYPES
def test_subnormal_and_mixed_magnitudes(backend: Backend, dtype: str, request: pytest.FixtureRequest) -> None:
    needs(backend, dtype, request)
    precision = rounding.PRECISIONS[dtype]
    rng = np.random.default_rng(0)
    span = min(30, -math.log10(precision.tiny) - 1)
    for low, high in ((-span - 2, -span), (-span / 2, span / 4)):
        X = rng.choice([-1, 1], (5, 11)) * 10.0 ** rng.uniform(low, high, (5, 11))
        result = measure(layer_case(Dense(3), X, rng), backend, dtype)
        assert result.share <= 1, result
        assert result.compared


# ------------------------------------------------------------------ properties


SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 40), st.integers(1, 6))
SEEDS = st.integers(0, 2**32 - 1)
EXAMPLES = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def integers(rng: np.random.Generator, *shape: int) -> Any:
    return rng.integers(-8, 9, shape).astype("float32")


def run(backend: Backend, layer: Layer, params: Any, X: Any, G: Any) -> dict[str, Any]:
    params = {key: backend.asarray(value, "float32") for key, value in params.items()}
    Y, cache = layer.forward(params, backend.asarray(X, "float32"))
    grad_X, grads = layer.backward(params, cache, backend.asarray(G, "float32"))
    return {key: to_numpy(value) for key, value in {"Y": Y, "grad_X": grad_X, **grads}.items()}


@EXAMPLES
@given(shape=SHAPES, seed=SEEDS)
def test_small_integers_are_exact(backend: Backend, shape: tuple[int, int, int], seed: int) -> None:
    """All sums stay below 2²⁴, so every device must return the same bits, TF32 or not."""
    n, k, m = shape
    rng = np.random.default_rng(seed)
    X, W, w0, G = integers(rng, n, k), integers(rng, k, m), integers(rng, 1, m), integers(rng, n, m)
    results = run(backend, Dense(m, (k,)), {"W": W, "w0": w0}, X, G)
    np.testing.assert_array_equal(results["Y"], X @ W + w0)
    np.testing.assert_array_equal(results["grad_X"], G @ W.T)
    np.testing.assert_array_equal(results["W"], X.T @ G)
    np.testing.assert_array_equal(results["w0"], G.sum(axis=0, keepdims=True))


@EXAMPLES
@given(shape=SHAPES, seed=SEEDS, power=st.integers(-3, 3))
def test_the_layer_is_linear(backend: Backend, shape: tuple[int, int, int], seed: int, power: int) -> None:
    """f(2ᵖ a + b) = 2ᵖ f(a) + f(b) without bias; on integers with exact sums to the last bit."""
    n, k, m = shape
    rng = np.random.default_rng(seed)
    layer, W, G = Dense(m, (k,), use_bias=False), integers(rng, k, m), integers(rng, n, m)
    A, B = integers(rng, n, k), integers(rng, n, k)
    scale = 2.0**power
    both = run(backend, layer, {"W": W}, scale * A + B, G)
    one, two = run(backend, layer, {"W": W}, A, G), run(backend, layer, {"W": W}, B, G)
    np.testing.assert_array_equal(both["Y"], scale * one["Y"] + two["Y"])
    np.testing.assert_array_equal(both["W"], scale * one["W"] + two["W"])
    np.testing.assert_array_equal(both["grad_X"], one["grad_X"])


@EXAMPLES
@given(shape=SHAPES, seed=SEEDS, cut=st.integers(0, 6))
def test_batches_may_be_split_and_shuffled(backend: Backend, shape: tuple[int, int, int], seed: int, cut: int) -> None:
    """Each part is within the bound of the same reference, and gradients of parameters add up."""
    n, k, m = shape
    cut = min(cut, n)
    rng = np.random.default_rng(seed)
    case = layer_case(Dense(m), rng.normal(size=(n, k)), rng)
    params = {key[6:]: value for key, value in case.inputs.items() if key.startswith("param.")}
    X, G = case.inputs["X"].astype("float32"), case.inputs["grad_Y"].astype("float32")
    host = {key: np.asarray(value, "float32") for key, value in case.inputs.items()}
    reference = exact(case, host, precision_of(backend, "float32"))
    order = rng.permutation(n)
    shuffled = run(backend, Dense(m, (k,)), params, X[order], G[order])
    for output in ("Y", "grad_X"):
        back = np.empty_like(shuffled[output])
        back[order] = shuffled[output]
        assert share_of_bound(back, reference[output])[0] <= 1
    for output in ("W", "w0"):
        assert share_of_bound(shuffled[output], reference[f"grad_{output}"])[0] <= 1
    parts = [run(backend, Dense(m, (k,)), params, X[rows], G[rows]) for rows in (slice(cut), slice(cut, n))]
    for output in ("Y", "grad_X"):
        assert share_of_bound(np.concatenate([part[output] for part in parts]), reference[output])[0] <= 1
    for output in ("W", "w0"):
        # the sum of the two parts is one more addition, in another order: the same γ covers it
        total = parts[0][output].astype("float64") + parts[1][output]
        assert share_of_bound(total, reference[f"grad_{output}"])[0] <= 1


ADJOINT = [
    *(pytest.param(kind, id=name) for name, kind in parity.ACTIVATIONS.items()),
    pytest.param(lambda: Dense(5), id="dense"),
    pytest.param(LayerNorm, id="layer_norm"),
    pytest.param(parity.BatchNorm, id="batch_norm"),
]


@pytest.mark.parametrize("kind", ADJOINT)
def test_backward_is_the_adjoint_of_forward(backend: Backend, kind: Any) -> None:
    """⟨v, J u⟩ = ⟨Jᵀ v, u⟩, J u from a difference of forward in float64, within the errors of both.

    Central difference with step h: truncation of order h² and the forward's rounding over h, here below
    1e-8 of the size of either side for h = 2⁻¹⁷.
    """
    rng = np.random.default_rng(0)
    layer = kind()
    case = layer_case(layer, rng.uniform(0.5, 2, size=(4, 6)) * rng.choice([-1, 1], (4, 6)), rng)
    u, v, h = rng.normal(size=(4, 6)), case.inputs["grad_Y"], 2.0**-17

    def forward(X: Any) -> Any:
        arrays = {key: backend.asarray(value) for key, value in {**case.inputs, "X": X}.items()}
        return case.function(arrays)

    Ju = (to_numpy(forward(case.inputs["X"] + h * u)["Y"]) - to_numpy(forward(case.inputs["X"] - h * u)["Y"])) / (2 * h)
    left, right = float(np.sum(v * Ju)), float(np.sum(to_numpy(forward(case.inputs["X"])["grad_X"]) * u))
    assert abs(left - right) <= 1e-8 * (np.linalg.norm(v) * np.linalg.norm(Ju) + abs(right))


# ------------------------------------------------------------------ trajectories


def trajectory(backend: Any, dtype: str, optimizer: Any) -> Sequential:
    """Train for 200 steps on a smooth problem: 25 batches in each of 8 epochs."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 8))
    y = np.tanh(X @ rng.normal(size=(8, 3)) / 2)
    model = Sequential(
        [Dense(24, activation="tanh"), LayerNorm(), Dropout(0.1), Dense(3)], backend=backend, dtype=dtype, rng=7
    )
    model.fit(X, y, epochs=8, batch_size=16, optimizer=optimizer)
    assert model.steps == 200
    return model


def distance(one: Sequential, two: Sequential) -> float:
    """Return the largest difference of a weight."""
    names = two.weights
    return max(
        float(np.max(np.abs(to_numpy(one.weights[name]).astype("float64") - to_numpy(names[name])))) for name in names
    )


@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9), Adam(0.003)], ids=["sgd", "adam"])
def test_two_hundred_steps_stay_together(backend: Backend, optimizer: Any) -> None:
    """No further from NumPy than twice the distance of NumPy's float32 from its float64.

    Two float32 runs each differ from the exact one by about that distance, D, so by the triangle inequality
    2 D lies between them; it is doubled once more, since D is itself a single sample. Two float64 runs are
    allowed the same, scaled by the ratio of the unit round-offs, 2⁻²⁹.
    """
    narrow, wide = (trajectory("numpy", dtype, optimizer) for dtype in ("float32", "float64"))
    divergence = distance(narrow, wide)
    assert 1e-8 < divergence < 1e-2
    allowed = 4 * divergence
    own = {dtype: trajectory(backend, dtype, optimizer) for dtype in ("float32", "float64")}
    assert distance(own["float32"], narrow) <= allowed
    assert distance(own["float64"], wide) <= allowed * 2.0**-29
    # the same draws were made, for the weights, the order and dropout alike
    for model in own.values():
        assert model.rng.bit_generator.state == wide.rng.bit_generator.state


def test_initial_weights_are_the_same_bits(backend: Backend) -> None:
    models = [Sequential([Dense(24), Dense(3)], input_shape=(8,), backend=b, rng=7) for b in (backend, "numpy")]
    for model in models:
        model.initialize()
    for name, value in models[0].weights.items():
        np.testing.assert_array_equal(to_numpy(value), models[1].weights[name])


# ------------------------------------------------------------------ nothing forces a value


@DTYPES
def test_every_function_of_the_matrix_runs_on_shapes_alone(dtype: str) -> None:
    """Traced without any values: a float(), bool() or branch on data would raise. The dtype does not drift."""
    jax = pytest.importorskip("jax")
    for case in cases(dtype, shapes=SMALL):
        shapes = {
            key: jax.ShapeDtypeStruct(np.shape(v), dtype if np.asarray(v).dtype.kind == "f" else np.asarray(v).dtype)
            for key, v in case.inputs.items()
        }
        for output, value in jax.eval_shape(case.function, shapes).items():
            assert value.dtype == jax.numpy.dtype(dtype), (case.name, output)


def test_the_training_step_runs_on_shapes_alone() -> None:
    jax = pytest.importorskip("jax")
    from dense_xp.learning.losses import SoftmaxCrossEntropy
    from dense_xp.learning.metrics import accuracy
    from dense_xp.training.step import train_step

    model = Sequential(
        [Dense(8, activation="gelu"), parity.BatchNorm(), Dropout(0.5), Dense(3)],
        input_shape=(4,),
        backend="jax",
        rng=0,
    )
    model.initialize(Adam(clip_norm=1.0, weight_decay=0.1))
    step = train_step(model, SoftmaxCrossEntropy(0.1), (accuracy,))
    noise = model.draw_noise(np.random.default_rng(0), (5, 4))
    X, y = np.zeros((5, 4), "float32"), np.zeros(5, "int64")
    arguments = (model.params, model.optimizer_state, X, y, np.ones(5, "float32"), noise, 0.1)
    params, state, values = jax.eval_shape(step, *arguments)
    assert jax.tree.map(lambda v: (v.shape, v.dtype), params) == jax.tree.map(
        lambda v: (v.shape, v.dtype), model.params
    )
    assert jax.tree.structure(state) == jax.tree.structure(model.optimizer_state)
    assert [value.shape for value in values] == [(), ()]


# ------------------------------------------------------------------ a bound that can fail


class WithoutTranspose(Dense):
    def backward(self, params: Any, cache: Any, grad_Y: Any) -> Any:
        return grad_Y @ params["W"], super().backward(params, cache, grad_Y)[1]


class MeanForSum(Dense):
    def backward(self, params: Any, cache: Any, grad_Y: Any) -> Any:
        grad_X, grads = super().backward(params, cache, grad_Y)
        return grad_X, {**grads, "w0": grads["w0"] / float(grad_Y.shape[0])}


class Hasty(Dense):
    """One rounding to float16 on the way: an error of 2⁻¹¹ where 2⁻²⁴ is allowed."""

    def forward(self, params: Any, X: Any, **kwargs: Any) -> Any:
        return super().forward(params, np.asarray(X).astype("float16").astype(X.dtype), **kwargs)


@pytest.mark.parametrize("faulty", [WithoutTranspose, MeanForSum, Hasty])
def test_a_fault_breaks_the_bound(faulty: type[Dense]) -> None:
    rng = np.random.default_rng(0)
    right = layer_case(Dense(5), rng.normal(size=(4, 5)), rng)
    wrong = layer_case(faulty(5, (5,)), right.inputs["X"], rng)
    host = {key: np.asarray(value, "float32") for key, value in right.inputs.items()}
    reference = exact(right, host, rounding.float32)
    assert max(share_of_bound(value, reference[key])[0] for key, value in right.function(host).items()) <= 1
    assert max(share_of_bound(value, reference[key])[0] for key, value in wrong.function(host).items()) > 1


def test_a_dtype_that_drifts_is_noticed() -> None:
    case = next(cases("float32"))

    def drifting(arrays: Any) -> Any:
        results = case.function(arrays)
        return {k: v.astype("float64") if isinstance(v, np.ndarray) else v for k, v in results.items()}

    result = measure(dataclasses.replace(case, function=drifting), get_backend("numpy"), "float32")
    assert result.share == np.inf
    assert result.output == "Y is float64"


def test_shares_count_what_is_wrong() -> None:
    reference = rounding.Bounded([1.0, 2.0, 0.0, 1e30], [0.5, 0.5, 0.0, 0.0], rounding.float32)
    assert share_of_bound(np.asarray([1.25, 2.0, 0.0, 1e30]), reference) == (0.5, 4)
    assert share_of_bound(np.asarray([1.25, 3.0, 0.0, 1e30]), reference)[0] == 2
    assert share_of_bound(np.asarray([1.0, 2.0, 1e-9, 1e30]), reference)[0] == np.inf
    assert share_of_bound(np.asarray([np.nan, 2.0, 0.0, 1e30]), reference)[0] == np.inf
    overflowing = rounding.Bounded([1.0, 1e39], [0.5, 0.0], rounding.float32)
    assert share_of_bound(np.asarray([1.0, np.inf]), overflowing) == (0.0, 1)
    with pytest.raises(AssertionError, match=r"has shape \(3,\), and must have \(2,\)"):
        share_of_bound(np.ones(3), overflowing)


def test_what_a_library_cannot_do_is_a_line_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    good = next(cases("float32"))

    def unable(arrays: Any) -> Any:
        raise ValueError("no such product\nand more")

    monkeypatch.setattr(parity, "cases", lambda dtype, seed=0: [dataclasses.replace(good, function=unable)])
    rows, _ = parity.table(get_backend("numpy"), ["float32"])
    assert rows == [parity.Row("Dense", "float32", np.inf, np.inf, "ValueError: no such product (1, 1)", 0)]
    assert not rows[0].passed


# ------------------------------------------------------------------ the command


@pytest.fixture
def few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "cases", lambda dtype, seed=0: cases(dtype, seed, SMALL[:2]))


@pytest.mark.usefixtures("few_cases")
def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["parity", "--backend", "numpy"]) == 0
    captured = capsys.readouterr()
    assert "TF32" in captured.out
    row = next(line for line in captured.out.splitlines() if line.startswith("Dense") and "float32" in line)
    assert 0 < float(row.split()[2]) <= 1
    assert "bfloat16: not compared: numpy has no dtype 'bfloat16'" in captured.out
    assert "every bound holds" in captured.out
    assert captured.err == ""


@pytest.mark.usefixtures("few_cases")
def test_the_command_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["parity", "--backend", "numpy", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is True
    assert report["backend"] == "numpy"
    assert report["tf32"] is False
    assert {row["dtype"] for row in report["rows"]} == {"float16", "float32", "float64"}
    assert all(0 <= row["share"] <= 1 for row in report["rows"])
    assert set(report["skipped"]) == {"bfloat16"}


def test_the_command_fails_when_a_bound_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = next(cases("float32"))

    def wrong(arrays: Any) -> Any:
        results = good.function(arrays)
        if isinstance(arrays["X"], np.ndarray):
            results["Y"] = results["Y"] * results["Y"].dtype.type(1.1)
        return results

    monkeypatch.setattr(parity, "cases", lambda dtype, seed=0: [Case("Dense", good.shape, wrong, good.inputs)])
    assert cli.main(["parity", "--backend", "numpy"]) == 1
    out = capsys.readouterr().out
    assert "BROKEN" in out
    assert "Y (1, 1)" in out
    assert "every bound holds" not in out
    assert cli.main(["parity", "--backend", "numpy", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False
