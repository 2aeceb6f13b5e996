"""What is asked of weights beside the loss: penalties with their gradients, and constraints after each step."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dense_xp import (
    L1,
    L1L2,
    L2,
    SGD,
    Adam,
    BatchNorm,
    Dense,
    Dropout,
    Layer,
    LayerNorm,
    MaxNorm,
    MinMaxNorm,
    NonNegative,
    Regularizer,
    Sequential,
    SoftOrthogonality,
    UnitNorm,
    load,
    save,
)
from dense_xp.backend import Backend, to_numpy
from dense_xp.evidence.parity import Case, measure
from dense_xp.evidence.rounding import PRECISIONS
from dense_xp.learning.constraints import CONSTRAINTS as BY_NAME
from dense_xp.learning.losses import MeanSquaredError
from dense_xp.learning.regularizers import REGULARIZERS as PENALTIES
from dense_xp.training.fused.step import FusedStep
from tests.comparing import assert_close, assert_same_kind
from tests.gradients import directional_error

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4))
TARGET = RNG.normal(size=(12, 3))
REGULARIZERS = (L1(0.3), L2(0.2), L1L2(0.1, 0.4), SoftOrthogonality(0.05))
CONSTRAINTS = (MaxNorm(0.7), MinMaxNorm(0.5, 0.9), UnitNorm(), NonNegative())
BOTH = pytest.mark.parametrize("rule", [*REGULARIZERS, *CONSTRAINTS], ids=repr)


class Quartic(Regularizer):
    """A regularizer of one's own."""

    def penalty(self, W: Any) -> Any:
        return (W * W * W * W).sum()

    def gradient(self, W: Any) -> Any:
        return 4.0 * W * W * W


class Stateful(Layer):
    """A layer that writes the stateful methods alone."""

    def initialize(self, optimizer: Any = None) -> None:
        self.W = np.ones((1, 3))

    def parameters(self) -> int:
        return 3

    def forward_pass(self, X: Any, training: bool = True) -> Any:
        return np.asarray(X) * self.W

    def backward_pass(self, accum_grad: Any) -> Any:
        return np.asarray(accum_grad) * self.W

    def output_shape(self) -> tuple[int, ...]:
        return (3,)


def network(**kwargs: Any) -> Sequential:
    layers = [
        Dense(5, activation="tanh").regularized(W=L1L2(0.01, 0.02), w0=L2(0.1)).constrained(W=MaxNorm(0.8)),
        Sequential([LayerNorm().regularized(gamma=L2(0.03)), Dropout(0.3)]),
        Dense(3).constrained(W=NonNegative()),
    ]
    return Sequential(layers, input_shape=(4,), rng=0, dtype="float64", **kwargs)


# ------------------------------------------------------------------------------------- the rules


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (1, 5), (5, 1)])
@pytest.mark.parametrize("rule", REGULARIZERS, ids=repr)
def test_a_penalty_and_its_gradient(backend: Backend, rule: Regularizer, shape: tuple[int, int]) -> None:
    W = RNG.normal(size=shape) + 0.1
    value, gradient = rule.penalty(backend.asarray(W)), rule.gradient(backend.asarray(W))
    assert_same_kind(value, backend, "float64", ())
    assert_same_kind(gradient, backend, "float64", shape)
    assert directional_error(lambda w: to_numpy(rule.penalty(backend.asarray(w))), gradient, W, RNG) < 1e-9


def test_penalties_are_those_of_their_formulas(backend: Backend) -> None:
    W = RNG.normal(size=(6, 4))
    frobenius = np.linalg.norm(W.T @ W - np.eye(4)) ** 2
    placed = backend.asarray(W)
    for rule, expected in (
        (L1(0.3), 0.3 * np.abs(W).sum()),
        (L2(0.2), 0.2 * np.linalg.norm(W) ** 2),
        (L1L2(0.1, 0.4), 0.1 * np.abs(W).sum() + 0.4 * (W**2).sum()),
        (SoftOrthogonality(0.05), 0.05 * frobenius),
    ):
        assert_close(rule.penalty(placed), expected, backend)
    assert_close(SoftOrthogonality(0.05).penalty(placed.T), 0.05 * frobenius, backend)  # of the rows, if fewer
    orthonormal = backend.asarray(np.linalg.qr(W)[0])
    assert float(SoftOrthogonality(1.0).penalty(orthonormal)) < 1e-28
    assert np.all(to_numpy(L1().gradient(backend.asarray(np.zeros((2, 2))))) == 0)


def test_norm_constraints_are_those_of_torch(backend: Backend) -> None:
    torch = pytest.importorskip("torch")
    W = RNG.normal(size=(6, 4)) * [0.01, 0.3, 1.0, 30.0]
    theirs = torch.tensor(W)
    norm = theirs.norm(dim=0, keepdim=True)
    for rule, expected in (
        (MaxNorm(0.7), torch.nn.functional.normalize(theirs, dim=0) * norm.clamp(max=0.7)),
        (UnitNorm(), torch.nn.functional.normalize(theirs, dim=0)),
        (MinMaxNorm(0.5, 0.9), torch.nn.functional.normalize(theirs, dim=0) * norm.clamp(0.5, 0.9)),
        (NonNegative(), torch.relu(theirs)),
    ):
        assert_close(rule(backend.asarray(W)), expected.numpy(), backend)
    renormed = torch.renorm(theirs, 2, 1, 0.7).numpy()  # this divides by the norm plus 1e-7
    np.testing.assert_allclose(to_numpy(MaxNorm(0.7)(backend.asarray(W))), renormed, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", CONSTRAINTS, ids=repr)
def test_constraints_keep_their_bounds(backend: Backend, rule: Any, dtype: str) -> None:
    W = RNG.normal(size=(31, 7)) * 10.0 ** np.arange(-3, 4)
    result = measure(Case("W", W.shape, lambda arrays: {"W": rule(arrays["W"])}, {"W": W}), backend, dtype)
    assert result.compared == W.size
    assert result.share <= 1
    once = rule(backend.asarray(W, dtype))
    assert_close(rule(once), to_numpy(once), backend, dtype, ulps=4)  # what is allowed stays


def test_what_is_allowed_keeps_its_bits_and_zeros_have_no_direction(backend: Backend) -> None:
    W = np.asarray([[0.0, 0.1, 0.3], [0.0, -0.2, 0.4]])
    for rule in (MaxNorm(0.7), MinMaxNorm(0.0, 0.9)):
        np.testing.assert_array_equal(to_numpy(rule(backend.asarray(W))), W)
    for rule in (UnitNorm(), MinMaxNorm(0.5, 0.9)):
        found = to_numpy(rule(backend.asarray(W)))
        np.testing.assert_array_equal(found[:, 0], 0.0)
        assert np.isfinite(found).all()


# ------------------------------------------------------------------------------------- in training


def test_a_training_is_that_of_torch(backend: Backend) -> None:
    """Penalties in torch's loss, projections after torch's steps: the same losses, the same weights."""
    torch = pytest.importorskip("torch")
    model = Sequential(
        [Dense(5, activation="tanh").regularized(W=L2(0.03), w0=L1(0.02)).constrained(W=MaxNorm(0.4)), Dense(3)],
        input_shape=(4,),
        dtype="float64",
        backend=backend,
        rng=0,
    )
    model.initialize(SGD(0.1, momentum=0.5))
    theirs = {name: torch.tensor(to_numpy(w).copy(), requires_grad=True) for name, w in model.weights.items()}
    history = model.fit(X, TARGET, 3, 4, shuffle=False, loss="mean_squared_error", validation_data=(X, TARGET))
    optimizer = torch.optim.SGD(theirs.values(), 0.1, momentum=0.5)
    x, y = torch.tensor(X), torch.tensor(TARGET)

    def objective(rows: slice) -> Any:
        hidden = torch.tanh(x[rows] @ theirs["dense.W"] + theirs["dense.w0"])
        data = torch.nn.functional.mse_loss(hidden @ theirs["dense_1.W"] + theirs["dense_1.w0"], y[rows])
        return data + 0.03 * theirs["dense.W"].square().sum() + 0.02 * theirs["dense.w0"].abs().sum()

    losses: list[float] = []
    for _ in range(3):
        batches = []
        for start in range(0, 12, 4):
            loss = objective(slice(start, start + 4))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                W = theirs["dense.W"]
                W *= W.norm(dim=0).clamp(max=0.4) / W.norm(dim=0)
            batches.append(loss.item())
        losses.append(float(np.mean(batches)))
    norms = np.linalg.norm(to_numpy(model.layers[0].W), axis=0)
    assert (norms > 0.399).any()  # the constraint was at work
    assert (norms < 0.399).any()
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-12)
    np.testing.assert_allclose(history["val_loss"][-1], objective(slice(None)).item(), rtol=1e-12)
    for name, value in theirs.items():
        np.testing.assert_allclose(to_numpy(model.weights[name]), value.detach().numpy(), rtol=1e-10, err_msg=name)


def test_every_way_of_stepping_takes_the_same_step(backend: Backend) -> None:
    """fit, forward_pass and backward_pass of the model, and of its layers one by one."""
    fitted, whole, single = (network(backend=backend) for _ in range(3))
    for model in (fitted, whole, single):
        model.layers[1].layers[1].rate = 0.0  # the same numbers without noise
        model.initialize(Adam(0.05))
    fitted.fit(X, TARGET, 2, 12, shuffle=False)
    x, y = backend.asarray(X), backend.asarray(TARGET)
    for _ in range(2):
        whole.backward_pass(MeanSquaredError().gradient(whole.forward_pass(x), y))
        Y = x
        for layer in single.layers:
            Y = layer.forward_pass(Y)
        grad = MeanSquaredError().gradient(Y, y)
        for layer in reversed(single.layers):
            grad = layer.backward_pass(grad)
    for name, value in fitted.weights.items():
        for other in (whole, single):
            np.testing.assert_allclose(to_numpy(other.weights[name]), to_numpy(value), rtol=1e-9, atol=1e-12)
    W = to_numpy(fitted.weights["dense.W"])
    assert np.linalg.norm(W, axis=0).max() <= 0.8 * (1 + 1e-15)
    assert to_numpy(fitted.weights["dense_1.W"]).min() == 0.0


def test_a_step_layer_by_layer_counts_penalties_too() -> None:
    model = Sequential([Dense(3).regularized(W=L2(0.5)), Stateful()], input_shape=(4,), dtype="float64", rng=0)
    model.initialize("sgd")
    before = to_numpy(model.layers[0].W)
    first = model.evaluate(X, TARGET)["loss"]
    assert model.fit(X, TARGET, 1, 12)["loss"][0] == pytest.approx(first)
    assert first == pytest.approx(np.mean((X @ before - TARGET) ** 2) + 0.5 * np.sum(before**2))


def test_evaluate_measures_what_is_minimised(backend: Backend) -> None:
    model = network(backend=backend)
    model.initialize("sgd")
    weights = {name: to_numpy(value) for name, value in model.weights.items()}
    penalty = 0.01 * np.abs(weights["dense.W"]).sum() + 0.02 * (weights["dense.W"] ** 2).sum()
    penalty += 0.03 * (weights["sequential.layer_norm.gamma"] ** 2).sum()
    data = np.mean((to_numpy(model.predict(X)) - TARGET) ** 2)
    found = model.evaluate(X, TARGET, batch_size=5, loss="mean_squared_error")["loss"]
    assert found == pytest.approx(data + penalty, rel=1e-12)


def test_a_frozen_layer_adds_nothing_and_is_held_to_nothing() -> None:
    model = network()
    model.layers[0].trainable = model.layers[1].trainable = False
    model.initialize(SGD(0.1))
    model.set_weights({"dense.W": np.full((4, 5), 9.0)})
    assert model.penalty(model.params) is None
    data = np.mean((to_numpy(model.predict(X)) - TARGET) ** 2)
    assert model.evaluate(X, TARGET, loss="mean_squared_error")["loss"] == pytest.approx(data)
    model.fit(X, TARGET, 1)
    assert np.all(model.weights["dense.W"] == 9.0)


def test_clipping_sees_the_penalty() -> None:
    layer = Dense(3, (4,), dtype="float64", rng=0, use_bias=False).regularized(W=L2(100.0))
    layer.initialize(SGD(1.0, clip_norm=0.5))
    before = layer.W
    layer.forward_pass(X)
    layer.backward_pass(np.zeros((12, 3)))
    assert np.linalg.norm(layer.W - before) == pytest.approx(0.5)


def test_the_gradient_goes_through_the_weights_of_the_forward_pass() -> None:
    layer = Dense(3, (4,), dtype="float64", rng=0, use_bias=False).regularized(W=L2(0.5))
    layer.initialize(SGD(0.1))
    before = layer.W
    layer.forward_pass(X)
    layer.W = np.ones((4, 3))
    layer.backward_pass(np.zeros((12, 3)))
    np.testing.assert_allclose(layer.W, 1.0 - 0.1 * before)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_stay_and_are_summed_in_thirty_two(backend: Backend, dtype: str) -> None:
    if not hasattr(backend.xp, dtype):
        pytest.skip(f"{backend} has no {dtype}")
    layer = Dense(2, (4096,), dtype=dtype, backend=backend, kernel_initializer=lambda shape, rng: np.ones(shape))
    layer.regularized(W=L2(2.0**-9)).constrained(W=MaxNorm(32.0))
    layer.initialize(SGD(1.0))
    assert float(layer.penalty(layer.params)) == 16.0
    tiny = {"W": backend.asarray(np.full((4096, 2), 2.0**-13), dtype)}  # its squares are none of float16's numbers
    assert float(layer.penalty(tiny)) == 2.0**-22
    for added in layer.with_penalty(tiny, tiny).values():
        assert_same_kind(added, backend, dtype, (4096, 2))
    layer.forward_pass(backend.asarray(np.zeros((3, 4096)), dtype))  # dpnp multiplies no row of float16
    layer.backward_pass(backend.asarray(np.zeros((3, 2)), dtype))
    assert_same_kind(layer.W, backend, dtype, (4096, 2))
    assert np.all(to_numpy(layer.W) == 0.5)  # 1 - 2/512 has the norm 63.75, and 0.5 has 32


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_training_in_sixteen_bits(backend: Backend, dtype: str) -> None:
    """The penalty is not scaled with the loss, and the constraint holds beside the master weights."""
    if not hasattr(backend.xp, dtype):
        pytest.skip(f"{backend} has no {dtype}")

    def model(dtype: str) -> Sequential:
        first = Dense(5, activation="tanh").regularized(W=L2(0.3)).constrained(W=MaxNorm(0.5))
        return Sequential([first, Dense(3)], input_shape=(4,), backend=backend, dtype=dtype, rng=0)

    half, single = model(dtype), model("float32")
    ours, theirs = (each.fit(X, TARGET, 10, 6, optimizer=SGD(0.2))["loss"] for each in (half, single))
    W = to_numpy(half.layers[0].W)
    assert_same_kind(half.layers[0].W, backend, dtype, (4, 5))
    u = PRECISIONS[dtype].u
    assert np.linalg.norm(W.astype("float64"), axis=0).max() <= 0.5 * (1 + 2 * u)
    np.testing.assert_allclose(W, to_numpy(single.layers[0].W), atol=16 * u)
    np.testing.assert_allclose(ours, theirs, rtol=32 * u)


@pytest.mark.parametrize("optimizer", [Adam(0.05), SGD(0.1, clip_norm=0.2)], ids=repr)
def test_the_step_in_its_own_memory_is_the_pure_one(monkeypatch: pytest.MonkeyPatch, optimizer: Any) -> None:
    one, two = network(), network()
    history = one.fit(X, TARGET, 3, 4, optimizer=optimizer)
    monkeypatch.setattr(FusedStep, "serves", lambda *_: False)
    assert history["loss"] == pytest.approx(two.fit(X, TARGET, 3, 4, optimizer=optimizer)["loss"], rel=1e-12)
    for name, value in one.weights.items():
        np.testing.assert_allclose(value, two.weights[name], rtol=1e-9, atol=1e-12, err_msg=name)


# ------------------------------------------------------------------------------------- around it


def test_rules_travel_with_the_model(backend: Backend, tmp_path: Path) -> None:
    model = network(backend=backend)
    model.fit(X, TARGET, 1, 6)
    save(model, tmp_path / "model")
    copies = [
        Sequential.from_config(model.get_config()),
        load(tmp_path / "model", backend),
        pickle.loads(pickle.dumps(model)),
        pickle.loads(pickle.dumps(model)).to("numpy"),
    ]
    for other in copies:
        first, second = other.layers[0], other.layers[1].layers[0]
        assert first.regularizers == {"W": L1L2(0.01, 0.02), "w0": L2(0.1)}
        assert first.constraints == {"W": MaxNorm(0.8)}
        assert second.regularizers == {"gamma": L2(0.03)}
        assert other.layers[2].constraints == {"W": NonNegative()}
    assert "'name': 'max_norm', 'limit': 0.8" in repr(model)
    loaded = copies[1]
    loaded.set_optimizer("adam")
    model.set_optimizer("adam")
    assert loaded.fit(X, TARGET, 1, 6, rng=3)["loss"] == model.fit(X, TARGET, 1, 6, rng=3)["loss"]


@BOTH
def test_rules_as_plain_values(rule: Any) -> None:
    layer = Dense(3, (2,))
    layer = layer.regularized(W=rule) if isinstance(rule, Regularizer) else layer.constrained(W=rule)
    config = layer.get_config()
    other = Dense.from_config(config)
    assert {**other.regularizers, **other.constraints} == {"W": rule}
    assert other.get_config() == config
    assert not Dense(3).regularizers
    assert "regularizers" not in Dense(3).get_config()


def test_rules_of_ones_own(backend: Backend, tmp_path: Path) -> None:
    layer = Dense(3, (4,), backend=backend, dtype="float64", use_bias=False, rng=0)
    layer.regularized(W=Quartic()).constrained(W=lambda W: 0.5 * W)
    layer.initialize(SGD(0.1))
    before = to_numpy(layer.W)
    layer.forward_pass(backend.asarray(X))
    layer.backward_pass(backend.asarray(np.zeros((12, 3))))
    np.testing.assert_allclose(to_numpy(layer.W), 0.5 * (before - 0.4 * before**3), rtol=1e-12)
    with pytest.raises(ValueError, match="the model cannot be saved"):
        save(layer, tmp_path / "layer")


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: L1(-1.0), ValueError, "factor must be a number that is not negative, and is -1.0"),
        (lambda: L2("much"), ValueError, "factor"),  # type: ignore[arg-type]
        (lambda: L1L2(l2=True), ValueError, "l2"),
        (lambda: SoftOrthogonality(float("nan")), ValueError, "factor"),
        (lambda: MaxNorm(0.0), ValueError, "limit must be a positive number, and is 0.0"),
        (lambda: MinMaxNorm(2.0, 1.0), ValueError, "high must be a number, at least 2.0, and is 1.0"),
        (lambda: MinMaxNorm("a", 1.0), ValueError, "'a'"),  # type: ignore[arg-type]
        (lambda: Dense(3).regularized(W="l3"), ValueError, "unknown regularizer 'l3'; did you mean"),
        (lambda: Dense(3).constrained(W="max"), ValueError, "unknown constraint 'max'; did you mean 'max_norm'"),
        (lambda: Dense(3).regularized(W=L2), TypeError, r"pass L2\(...\)"),
        (
            lambda: Dense(3).regularized(W=0.1),
            TypeError,
            "a regularizer is a name or an object of a subclass of Regularizer, and this is 0.1",
        ),
        (lambda: Dense(3).constrained(W=MaxNorm), TypeError, r"pass MaxNorm\(...\)"),
        (lambda: Dense(3).constrained(W=3.0), TypeError, "a constraint is a name or a pure function"),
        (lambda: Sequential([Dense(3)]).regularized(W=L2()), TypeError, "ask it of the layers inside"),
        (lambda: Stateful().constrained(W=NonNegative()), TypeError, "write forward and backward"),
    ],
)
def test_what_is_no_rule(make: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        make()


def test_a_rule_for_a_parameter_that_is_not_there() -> None:
    layer = Dense(3, (4,), use_bias=False, rng=0).regularized(w0=L2())
    with pytest.raises(ValueError, match=r"Dense has no parameter 'w0' .*; it has \['W'\]"):
        layer.initialize()
    assert layer.backend is None
    built = BatchNorm(input_shape=(3,))
    built.initialize()
    with pytest.raises(ValueError, match=r"'running_mean' .* \['gamma', 'beta'\]"):
        built.constrained(running_mean="non_negative")
    assert built.constraints == {}


def test_names() -> None:
    assert PENALTIES.made("soft_orthogonality") == SoftOrthogonality()
    assert BY_NAME.made({"name": "min_max_norm", "low": 0.1}) == MinMaxNorm(0.1)


@pytest.mark.parametrize("size", [1e25, 1e-25])
def test_columns_of_any_size_have_a_norm(backend: Backend, size: float) -> None:
    W = backend.asarray([[3.0 * size, 0.0], [4.0 * size, 1.0]], "float32")
    np.testing.assert_allclose(to_numpy(UnitNorm()(W)), [[0.6, 0.0], [0.8, 1.0]], rtol=1e-6)
