"""Optimizers: torch's own steps, purity, dtypes, clipping, and objects that are not ours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dense_xp import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    ConstantSchedule,
    Dense,
    Lion,
    Optimizer,
    RMSprop,
    Sequential,
    StepSchedule,
)
from dense_xp.backend import Backend, to_numpy
from dense_xp.learning.foreign import ForeignOptimizer
from dense_xp.learning.optimizers import OPTIMIZERS, as_optimizer
from tests.comparing import assert_close, assert_same_kind

RNG = np.random.default_rng(0)
PARAM = RNG.normal(size=(4, 3))
GRADS = RNG.normal(size=(12, 4, 3)) * 10.0 ** RNG.integers(-3, 3, size=(12, 1, 1))

OURS_AND_TORCHS: list[tuple[Optimizer, str, dict[str, Any]]] = [
    (SGD(0.1), "SGD", {"lr": 0.1}),
    (SGD(0.1, momentum=0.8), "SGD", {"lr": 0.1, "momentum": 0.8}),
    (SGD(0.1, momentum=0.8, nesterov=True), "SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
    (RMSprop(), "RMSprop", {"lr": 0.001}),
    (RMSprop(0.1, rho=0.9, epsilon=1e-3), "RMSprop", {"lr": 0.1, "alpha": 0.9, "eps": 1e-3}),
    (RMSprop(0.1, momentum=0.7), "RMSprop", {"lr": 0.1, "momentum": 0.7}),
    (Adam(), "Adam", {}),
    (Adam(0.1, beta_1=0.7, beta_2=0.9, epsilon=1e-3), "Adam", {"lr": 0.1, "betas": (0.7, 0.9), "eps": 1e-3}),
    (Adam(0.1, beta_1=0.0), "Adam", {"lr": 0.1, "betas": (0.0, 0.999)}),
    (AdamW(), "AdamW", {}),
    (AdamW(0.1, weight_decay=0.3), "AdamW", {"lr": 0.1, "weight_decay": 0.3}),
    (Adagrad(), "Adagrad", {}),
    (Adagrad(0.1, epsilon=1e-3), "Adagrad", {"lr": 0.1, "eps": 1e-3}),
    (Adagrad(0.1, initial_accumulator_value=0.5), "Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.5}),
]
ALL = [kind() for kind in OPTIMIZERS.values()] + [
    SGD(0.1, momentum=0.9, weight_decay=0.1),
    SGD(0.1, momentum=0.9, nesterov=True),
    RMSprop(0.1, momentum=0.5),
    Adagrad(0.1, initial_accumulator_value=0.1),
]


def name_of(value: Any) -> str:
    return repr(value).replace("learning_rate=", "")[:40] if isinstance(value, Optimizer) else ""


def stepped(optimizer: Optimizer, backend: Backend, dtype: str = "float64") -> list[Any]:
    """Return the parameter after each step, by the pure half."""
    param, path = backend.asarray(PARAM, dtype), []
    state = optimizer.init(param)
    for i, grad in enumerate(GRADS):
        param, state = optimizer.step(param, backend.asarray(grad, dtype), state, optimizer.learning_rate_at(i))
        path.append(param)
    return path


@pytest.mark.parametrize(("ours", "theirs", "options"), OURS_AND_TORCHS, ids=name_of)
def test_twelve_steps_are_those_of_torch(backend: Backend, ours: Optimizer, theirs: str, options: Any) -> None:
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.tensor(PARAM))
    optimizer = getattr(torch.optim, theirs)([parameter], **options)
    for param, grad in zip(stepped(ours, backend), GRADS, strict=True):
        parameter.grad = torch.tensor(grad)
        optimizer.step()
        # a dozen steps may each add their rounding errors, and torch's epsilon enters the root elsewhere
        assert_close(param, parameter.detach().numpy(), backend, ulps=400)


def lion(param: Any, grads: Any, rate: float, beta_1: float, beta_2: float, decay: float) -> Any:
    momentum = np.zeros_like(param)
    for grad in grads:
        direction = np.sign(beta_1 * momentum + (1 - beta_1) * grad)
        param = param - rate * (direction + decay * param)
        momentum = beta_2 * momentum + (1 - beta_2) * grad
        yield param


def test_lion_is_its_formula(backend: Backend) -> None:
    ours = Lion(0.1, beta_1=0.6, beta_2=0.8, weight_decay=0.2)
    for param, expected in zip(stepped(ours, backend), lion(PARAM, GRADS, 0.1, 0.6, 0.8, 0.2), strict=True):
        assert_close(param, expected, backend)
    for param, expected in zip(stepped(Lion(), backend), lion(PARAM, GRADS, 1e-4, 0.9, 0.99, 0), strict=True):
        assert_close(param, expected, backend)


@pytest.mark.parametrize("kind", OPTIMIZERS.values())
def test_weight_decay_is_decoupled(backend: Backend, kind: type[Optimizer]) -> None:
    """One step with decay is the step without it, plus a shrinking that the gradient does not see."""
    plain, decayed = kind(0.1, weight_decay=0.0), kind(0.1, weight_decay=0.3)
    param, grad = backend.asarray(PARAM), backend.asarray(GRADS[0])
    without = to_numpy(plain.step(param, grad, plain.init(param))[0])
    assert_close(decayed.step(param, grad, decayed.init(param))[0], without - 0.1 * 0.3 * PARAM, backend)


@pytest.mark.parametrize("optimizer", ALL, ids=name_of)
def test_update_is_step_with_the_state_kept(backend: Backend, optimizer: Optimizer) -> None:
    own = type(optimizer)(**{**vars(optimizer), "learning_rate": StepSchedule(0.1, every=3)})
    param = backend.asarray(PARAM)
    for expected, grad in zip(stepped(own, backend), GRADS, strict=True):
        param = own.update(param, backend.asarray(grad))
        assert_close(param, to_numpy(expected), backend, ulps=1)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("optimizer", ALL, ids=name_of)
def test_the_dtype_stays_and_the_state_has_at_least_32_bits(backend: Backend, optimizer: Optimizer, dtype: str) -> None:
    if not hasattr(backend.xp, dtype):
        pytest.skip(f"{backend} has no {dtype}")
    param = backend.asarray(PARAM, dtype)
    state = optimizer.init(param)
    for grad in GRADS[:3]:
        param, state = optimizer.step(param, backend.asarray(grad, dtype), state)
        assert_same_kind(param, backend, dtype, (4, 3))
        for value in state.values():
            assert value.dtype == backend.dtype("float32" if dtype == "float16" else dtype)
    moved = to_numpy(param).astype("float64") - PARAM.astype(dtype).astype("float64")
    assert np.all(np.isfinite(moved))
    if optimizer.learning_rate_at(0) >= 0.01:
        assert np.any(moved != 0)


@pytest.mark.parametrize("optimizer", ALL, ids=name_of)
def test_nothing_is_written_to(backend: Backend, optimizer: Optimizer) -> None:
    param, grad = backend.asarray(PARAM.copy()), backend.asarray(GRADS[0].copy())
    state = optimizer.init(param)
    for _ in range(2):
        kept = {key: to_numpy(value).copy() for key, value in state.items()}
        first = optimizer.step(param, grad, state)
        again = optimizer.step(param, grad, state)
        np.testing.assert_array_equal(to_numpy(param), PARAM)
        np.testing.assert_array_equal(to_numpy(grad), GRADS[0])
        for key, value in state.items():
            np.testing.assert_array_equal(to_numpy(value), kept[key])
        np.testing.assert_array_equal(to_numpy(first[0]), to_numpy(again[0]))
        state = first[1]


@pytest.mark.parametrize("steps", [1, 10, 10_000])
def test_adam_is_freed_of_its_bias_to_the_last_digits_of_float32(backend: Backend, steps: int) -> None:
    """A constant gradient moves the parameter by the rate at every step, whatever the number of the step.

    The means are β-weighted sums of the same number, so both corrections are exact quotients: a correction
    computed as 1 - βᵗ in float32 would be off by 2⁻²⁴/0.001, a thousand times this bound, at the first step.
    """
    optimizer = Adam(1.0, epsilon=0.0)
    state = {
        "mean": backend.asarray(np.full(2, -2 * math.expm1((steps - 1) * math.log(0.9))), "float32"),
        "mean_square": backend.asarray(np.full(2, -4 * math.expm1((steps - 1) * math.log(0.999))), "float32"),
        "steps": backend.asarray(np.asarray(float(steps - 1)), "float32"),
    }
    zero, grad = backend.asarray(np.zeros(2), "float32"), backend.asarray(np.full(2, 2.0), "float32")
    moved, _ = optimizer.step(zero, grad, state)
    np.testing.assert_allclose(to_numpy(moved), -1.0, rtol=16 * 2.0**-24)


def test_a_step_can_be_traced() -> None:
    jax = pytest.importorskip("jax")
    for optimizer in ALL:
        assert optimizer.traceable
        param = jax.numpy.asarray(PARAM)
        state = optimizer.init(param)
        for i, grad in enumerate(GRADS[:3]):
            param, state = jax.jit(optimizer.step)(param, jax.numpy.asarray(grad), state, optimizer.learning_rate_at(i))
        np.testing.assert_allclose(np.asarray(param), stepped(optimizer, _numpy())[2], rtol=1e-12, atol=1e-14)


def _numpy() -> Backend:
    from dense_xp import get_backend

    return get_backend("numpy")


# ------------------------------------------------------------------ clipping


def nested(backend: Backend, dtype: str = "float64") -> dict[str, Any]:
    return {"a": {"W": backend.asarray(GRADS[0], dtype)}, "b": backend.asarray(GRADS[1], dtype)}


@pytest.mark.parametrize("limit", [1e-3, 0.5, 1.0])
def test_the_norm_is_that_of_all_gradients_together(backend: Backend, limit: float) -> None:
    norm = math.sqrt(np.sum(GRADS[0] ** 2) + np.sum(GRADS[1] ** 2))
    clipped = SGD(clip_norm=limit * norm).clip(nested(backend))
    assert_close(clipped["a"]["W"], GRADS[0] * limit, backend)
    assert_close(clipped["b"], GRADS[1] * limit, backend)
    assert list(clipped) == ["a", "b"]


def test_small_gradients_are_left_as_they_are(backend: Backend) -> None:
    grads = nested(backend)
    for optimizer in (SGD(clip_norm=1e6), SGD(clip_value=1e6), SGD(clip_norm=1e6, clip_value=1e6)):
        clipped = optimizer.clip(grads)
        np.testing.assert_array_equal(to_numpy(clipped["a"]["W"]), GRADS[0])
        np.testing.assert_array_equal(to_numpy(clipped["b"]), GRADS[1])
    assert SGD().clip(grads) is grads
    assert SGD(clip_norm=1.0).clip({}) == {}


def test_values_are_limited_before_the_norm_is_taken(backend: Backend) -> None:
    limited = [np.clip(grad, -0.1, 0.1) for grad in GRADS[:2]]
    clipped = SGD(clip_value=0.1).clip(nested(backend))
    assert_close(clipped["a"]["W"], limited[0], backend)
    both = SGD(clip_value=0.1, clip_norm=0.2).clip(nested(backend))
    norm = math.sqrt(sum(np.sum(grad**2) for grad in limited))
    assert norm > 0.2
    assert_close(both["b"], limited[1] * 0.2 / norm, backend)


def test_the_norm_of_16_bit_gradients_does_not_overflow(backend: Backend) -> None:
    if not hasattr(backend.xp, "float16"):
        pytest.skip(f"{backend} has no float16")
    grad = backend.asarray(np.full((100, 10), 200.0), "float16")
    clipped = SGD(clip_norm=1.0).clip({"W": grad})["W"]
    assert_same_kind(clipped, backend, "float16", (100, 10))
    np.testing.assert_allclose(to_numpy(clipped).astype("float64"), 1 / math.sqrt(1000), rtol=2e-3)


def test_update_clips_its_own_gradient(backend: Backend) -> None:
    optimizer = SGD(1.0, clip_norm=2.0)
    moved = optimizer.update(backend.asarray(np.zeros(2)), backend.asarray(np.asarray([30.0, 40.0])))
    assert_close(moved, [-1.2, -1.6], backend)


# ------------------------------------------------------------------ optimizers that are not ours


def test_an_object_with_update_has_a_copy_for_each_parameter() -> None:
    class Counting:
        calls = 0

        def update(self, weights: Any, grad: Any) -> Any:
            self.calls += 1
            weights -= grad  # into the copy that it was handed
            return weights

    given = Counting()
    optimizer = as_optimizer(given)
    assert isinstance(optimizer, ForeignOptimizer)
    assert not optimizer.traceable
    assert "Counting" in repr(optimizer)
    one, two = optimizer.init(PARAM), optimizer.init(PARAM)
    param = PARAM.copy()
    moved, one = optimizer.step(param, GRADS[0], one)
    moved, one = optimizer.step(moved, GRADS[0], one)
    np.testing.assert_array_equal(param, PARAM)
    np.testing.assert_allclose(moved, PARAM - 2 * GRADS[0])
    assert (one.calls, two.calls, given.calls) == (2, 0, 0)


@pytest.mark.parametrize(
    ("returned", "error", "says"),
    [
        (None, TypeError, r"Wrong.update returned a NoneType; it must return the new weights"),
        ([[1.0]], TypeError, "Wrong.update returned a list"),
        (np.ones(3), ValueError, r"Wrong.update returned weights of shape \(3,\) for \(4, 3\)"),
        (np.ones((4, 3), "complex128"), TypeError, "Wrong.update returned weights of dtype complex128"),
        (np.ones((4, 3), bool), TypeError, "dtype bool"),
    ],
)
def test_what_update_must_not_return(returned: Any, error: type, says: str) -> None:
    class Wrong:
        def update(self, weights: Any, grad: Any) -> Any:
            return returned

    optimizer = as_optimizer(Wrong())
    assert optimizer is not None
    with pytest.raises(error, match=says):
        optimizer.step(PARAM, GRADS[0], optimizer.init(PARAM))


def test_weights_of_another_library_are_refused() -> None:
    strict = pytest.importorskip("array_api_strict")

    class Elsewhere:
        def update(self, weights: Any, grad: Any) -> Any:
            return strict.asarray(weights)

    with pytest.raises(TypeError, match=r"Elsewhere.update returned a Array"):
        ForeignOptimizer(Elsewhere()).step(PARAM, GRADS[0], Elsewhere())


class WithNumPy:
    """An optimizer as it is written for NumPy, in the style of the reference."""

    def update(self, weights: Any, grad: Any) -> Any:
        return weights - 0.1 * grad.astype("float32").clip(-1, 1)


class Raising:
    def update(self, weights: Any, grad: Any) -> Any:
        raise ValueError("no such rate")


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        (WithNumPy(), "WithNumPy.update failed, perhaps because it is for NumPy"),
        (Raising(), "Raising.update failed, perhaps because it is for NumPy"),
    ],
)
@pytest.mark.parametrize("name", ["array_api_strict", "torch"])
def test_an_optimizer_of_numpy_elsewhere(name: str, optimizer: Any, says: str) -> None:
    pytest.importorskip(name)
    model = Sequential([Dense(2)], input_shape=(3,), backend=name, rng=0)
    model.initialize(optimizer)
    before = model.weights
    remedy = rf"arrays of {name}: take functions from array_api_compat.*backend='numpy'"
    said = r"\. It said: no such rate$" if isinstance(optimizer, Raising) else ""
    with pytest.raises(TypeError, match=f"{says}.*{remedy}{said}"):
        model.fit(np.ones((8, 3)), np.ones((8, 2)), 1)
    assert all(model.weights[key] is value for key, value in before.items())
    model = Sequential([Dense(2)], input_shape=(3,), backend="numpy", rng=0)
    if isinstance(optimizer, Raising):  # there its errors are its own
        with pytest.raises(ValueError, match=r"^no such rate$"):
            model.fit(np.ones((8, 3)), np.ones((8, 2)), 1, optimizer=optimizer)
    else:
        model.fit(np.ones((8, 3)), np.ones((8, 2)), 1, optimizer=optimizer)


def test_another_precision_is_brought_back(backend: Backend) -> None:
    class Drifting:
        def update(self, weights: Any, grad: Any) -> Any:
            return backend.asarray(np.ones((4, 3)))

    param = backend.asarray(PARAM, "float32")
    moved, _ = ForeignOptimizer(Drifting()).step(param, param, Drifting())
    assert_same_kind(moved, backend, "float32", (4, 3))


# ------------------------------------------------------------------ what goes wrong


def test_optimizers_by_name() -> None:
    for name, kind in OPTIMIZERS.items():
        assert as_optimizer(name) == kind()
    optimizer = Adam()
    assert as_optimizer(optimizer) is optimizer
    assert as_optimizer(None) is None


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("adma", ValueError, r"^unknown optimizer 'adma'; did you mean 'adam'\?"),
        ("zzz", ValueError, "Known: sgd, rmsprop, adam, adamw, adagrad, lion, or an object with update"),
        (Adam, TypeError, r"this is the class Adam: pass Adam\(\.\.\.\)"),
        (3, TypeError, r"an object with update\(weights, grad\)"),
        ({}, TypeError, r"an object with update\(weights, grad\)"),
    ],
)
def test_what_is_no_optimizer(spec: Any, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        as_optimizer(spec)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SGD(-0.1), "learning_rate must be a number that is not negative, and is -0.1"),
        (lambda: SGD("fast"), "learning_rate"),
        (lambda: SGD(True), "learning_rate"),
        (lambda: SGD(math.nan), "learning_rate"),
        (lambda: SGD(math.inf), "learning_rate"),
        (lambda: SGD(weight_decay=-1), "^weight_decay must be a number that is not negative"),
        (lambda: SGD(clip_norm=0), "clip_norm must be a positive number, and is 0"),
        (lambda: SGD(clip_value=-1), "clip_value"),
        (lambda: SGD(momentum=1.0), "momentum must be a number, at least 0 and below 1, and is 1.0"),
        (lambda: SGD(nesterov=True), "^nesterov=True needs a momentum, for example momentum=0.9$"),
        (lambda: RMSprop(momentum=1), "^momentum must be a number, at least 0 and below 1, and is 1$"),
        (lambda: Adam(beta_2=1.0), "^beta_2 must be a number, at least 0 and below 1"),
        (lambda: RMSprop(rho=1), "^rho must be a number"),
        (lambda: RMSprop(momentum=-0.1), "^momentum must be a number"),
        (lambda: RMSprop(epsilon=-1), "^epsilon must be a number"),
        (lambda: Adam(beta_1=1), "^beta_1 must be a number"),
        (lambda: Adam(beta_2=-0.1), "^beta_2 must be a number"),
        (lambda: Adam(epsilon=-1e-8), "^epsilon must be a number"),
        (lambda: Adagrad(epsilon=-1), "^epsilon must be a number"),
        (lambda: Adagrad(initial_accumulator_value=-1), "^initial_accumulator_value must be a number that is not neg"),
        (lambda: Lion(beta_1=1.5), "^beta_1 must be a number"),
        (lambda: Lion(beta_2=1), "^beta_2 must be a number"),
    ],
)
def test_arguments_out_of_range(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_the_state_is_no_larger_than_it_must_be() -> None:
    states = [
        (SGD(), set()),
        (SGD(momentum=0.5), {"velocity"}),
        (RMSprop(), {"mean_square"}),
        (RMSprop(momentum=0.5), {"mean_square", "velocity"}),
        (Adam(), {"mean", "mean_square", "steps"}),
        (Adagrad(), {"sum_of_squares"}),
        (Lion(), {"momentum"}),
    ]
    for optimizer, names in states:
        assert set(optimizer.init(PARAM)) == names
        assert set(optimizer.step(PARAM, GRADS[0], optimizer.init(PARAM))[1]) == names


def test_the_rate_of_a_step_is_what_it_is_told_or_the_first() -> None:
    optimizer = SGD(StepSchedule(0.5, every=1))
    np.testing.assert_allclose(optimizer.step(PARAM, GRADS[0], {}, 0.25)[0], PARAM - 0.25 * GRADS[0])
    np.testing.assert_allclose(optimizer.step(PARAM, GRADS[0], {})[0], PARAM - 0.5 * GRADS[0])


def test_defaults_and_schedules() -> None:
    rates = {name: kind().learning_rate_at(0) for name, kind in OPTIMIZERS.items()}
    assert rates == {"sgd": 0.01, "rmsprop": 0.001, "adam": 0.001, "adamw": 0.001, "adagrad": 0.01, "lion": 1e-4}
    assert SGD(StepSchedule(0.5, every=2)).learning_rate_at(2) == pytest.approx(0.05)
    assert SGD(ConstantSchedule(0.5)).learning_rate_at(9) == 0.5
    zero = SGD(0.0)
    np.testing.assert_array_equal(zero.step(PARAM, GRADS[0], zero.init(PARAM))[0], PARAM)
    with pytest.raises(NotImplementedError, match="Optimizer has no direction"):
        Optimizer().step(PARAM, GRADS[0], {})


@pytest.mark.parametrize("size", [1e25, 1e-25, 0.0, 1.0])
def test_gradients_of_any_size_are_clipped_by_norm(backend: Backend, size: float) -> None:
    grads = {"a": {"W": backend.asarray([[3 * size, 0.0]], "float32")}, "b": backend.asarray([-4 * size], "float32")}
    allowed = 1e-26 if size < 1.0 else 1.0
    clipped = SGD(0.1, clip_norm=allowed).clip(grads)
    found = [*to_numpy(clipped["a"]["W"]).ravel(), *to_numpy(clipped["b"])]
    expected = np.asarray([3.0, 0.0, -4.0]) * (min(1.0, allowed / (5 * size)) * size if size else 0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
