"""The step in its own memory against the pure step: the same numbers, on every kind of model."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dense_xp import (
    ELU,
    GELU,
    L1,
    L2,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    BatchNorm,
    CosineSchedule,
    Dense,
    DenseEnsemble,
    Dropout,
    LayerNorm,
    Lion,
    LoRA,
    MaxNorm,
    NonNegative,
    PiecewiseLinear,
    ReLU,
    RMSprop,
    RobustScale,
    Sequential,
    Softmax,
)
from dense_xp.backend import Backend, get_backend, to_numpy, use_backend
from dense_xp.layers.layer import Layer
from dense_xp.learning.losses import Huber, Loss, MeanSquaredError, SoftmaxCrossEntropy
from dense_xp.learning.metrics import accuracy
from dense_xp.support.trees import flatten, place
from dense_xp.training.fused import stages, workspace
from dense_xp.training.fused.step import FusedStep
from dense_xp.training.step import train_step
from tests.kernels.kernel_sets import KERNEL_SETS, kernel_set, used_by_trainings

RNG = np.random.default_rng(1)
X = RNG.normal(size=(30, 6))
LABELS = RNG.integers(0, 3, size=30)
ONE_HOT = np.eye(3)[LABELS]
BATCHES = [slice(0, 12), slice(12, 24), slice(24, 30)]  # the last one is smaller


class Doubled(ReLU):
    """A subclass whose pure functions are its own."""

    def function(self, X: Any) -> Any:
        Y, cache = super().function(X)
        return 2.0 * Y, cache

    def derivative(self, cache: Any) -> Any:
        return 2.0 * super().derivative(cache)


class Identity(Layer):
    """Hands on the very arrays that it was given."""

    def forward(self, params: Any, X: Any, **kwargs: Any) -> Any:
        return X, None

    def backward(self, params: Any, cache: Any, grad_Y: Any) -> Any:
        return grad_Y, {}


def frozen(layer: Layer) -> Layer:
    layer.trainable = False
    return layer


MODELS: dict[str, Any] = {
    "one layer": lambda: Dense(3, (6,), dtype="float64", rng=0),
    "linear": lambda: [Dense(5), Dense(4), Dense(3)],
    "relu": lambda: [Dense(8, activation="relu"), Dense(7, activation="relu"), Dense(3)],
    "tanh": lambda: [Dense(8, activation="tanh"), Dense(3, activation="tanh")],
    "sigmoid": lambda: [Dense(8, activation="sigmoid"), Dense(5, activation="relu"), Dense(3, activation="sigmoid")],
    "ends in relu": lambda: [Dense(8, activation="relu"), Dense(3, activation="relu")],
    "no bias": lambda: [Dense(8, activation="relu", use_bias=False), Dense(3, use_bias=False)],
    "gelu": lambda: [Dense(8, activation="gelu"), Dense(3)],
    "curves": lambda: [Dense(8, activation=name) for name in ("leaky_relu", "elu", "selu", "gelu", "silu", "mish")],
    "ends in a curve": lambda: [Dense(8, activation=ELU(1.5)), Dense(3, activation="softplus")],
    "activation layers": lambda: [Dense(8), ReLU(), Dense(8), GELU(), Dense(3)],
    "own activation": lambda: [Dense(8, activation=Doubled()), Doubled(), Dense(3)],
    "softmax": lambda: [Dense(8, activation="relu"), Dense(3), Softmax()],
    "dropout": lambda: [Dropout(0.2), Dense(8, activation="relu"), Dropout(0.5), Dense(3)],
    "dropout of nothing": lambda: [Dense(8), Dropout(0.0), Dense(3)],
    "scaled": lambda: [RobustScale.from_data(X), Dense(8, activation="relu"), Dense(3)],
    "norms": lambda: [LayerNorm(), Dense(8), ReLU(), BatchNorm(), Dense(8), LayerNorm(), Dense(3)],
    "piecewise": lambda: [PiecewiseLinear.from_data(X, 5), Dense(8, activation="relu"), Dense(3)],
    "piecewise after": lambda: [Dense(6), PiecewiseLinear.from_data(X, 5), Dense(3)],
    "members": lambda: [Dense(12, activation="relu"), DenseEnsemble(5, 3), ReLU(), DenseEnsemble(1, 3)],
    "identity": lambda: [Identity(), Dense(8, activation="relu"), Identity(), Dense(3), Identity()],
    "nested": lambda: [Sequential([Dense(8, activation="relu"), LayerNorm()]), Dropout(0.1), Sequential([Dense(3)])],
    "frozen first": lambda: [frozen(Dense(8, activation="relu")), Dense(8, activation="relu"), Dense(3)],
    "frozen middle": lambda: [Dense(8, activation="relu"), frozen(Dense(8)), frozen(LayerNorm()), Dense(3)],
    "frozen inside": lambda: [frozen(Sequential([Dense(8, activation="relu")])), Dense(3)],
    "rules": lambda: [
        Dense(8, activation="relu").regularized(W=L1(0.01), w0=L2(0.1)).constrained(W=MaxNorm(0.5)),
        LayerNorm().constrained(gamma=NonNegative()),
        Dense(3, use_bias=False).regularized(W=L2(0.01)),
    ],
    "frozen rules": lambda: [frozen(Dense(8).regularized(W=L2(9.0)).constrained(W=MaxNorm(0.1))), Dense(3)],
    "adapters": lambda: [LoRA(Dense(8, activation="relu"), 2), LoRA(Dense(3, use_bias=False), 2)],
    "all frozen": lambda: [frozen(Dense(8)), frozen(Dense(3))],
}
OPTIMIZERS = [
    SGD(0.1),
    SGD(0.1, momentum=0.9, nesterov=True),
    RMSprop(0.01),
    RMSprop(0.01, momentum=0.9, weight_decay=0.1),
    Adam(0.01),
    Adam(CosineSchedule(0.05, 5), weight_decay=0.01),
    AdamW(0.01),
    Adagrad(0.1),
    Adagrad(0.1, initial_accumulator_value=0.1),
    Lion(0.01),
    Adam(0.01, clip_norm=0.1),
    SGD(0.1, clip_value=0.01),
    SGD(0.1, momentum=0.5, clip_value=0.1, clip_norm=0.05),
    AdamW(0.1, weight_decay=0.5, no_decay=["w0", "gamma", "beta"]),
    RMSprop(0.01, weight_decay=0.5, no_decay=["W"], clip_value=0.01),
    SGD(0.1, momentum=0.5, weight_decay=0.5, no_decay=["w0"], clip_norm=0.05),
]


LAYER_BY_LAYER = "numba, layer by layer"


@pytest.fixture(params=[*KERNEL_SETS, LAYER_BY_LAYER], autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """Each test runs with the kernels of each library, on the backend that they are for."""
    module, chosen = kernel_set(request.param.partition(",")[0])
    used_by_trainings(module, monkeypatch)
    if request.param == LAYER_BY_LAYER:
        monkeypatch.setattr(stages, "SMALL", 0)
    with use_backend(chosen), chosen.scope():
        yield chosen


def built(name: str, optimizer: Any) -> Layer:
    made = MODELS[name]()
    model = made if isinstance(made, Layer) else Sequential(made, input_shape=(6,), dtype="float64", rng=0)
    model.initialize(optimizer)
    return model


def compare(model: Layer, loss: Loss, y: Any, weight: Any = None, rounds: int = 2, tile: int | None = None) -> None:
    """Some epochs of both, batch by batch; neither may write into what the model had."""
    backend = get_backend()
    before = {key: to_numpy(value).copy() for key, value in flatten(model.params).items()}
    own = model.params
    assert FusedStep.serves(model, 2)
    step = FusedStep(model, loss, (accuracy,), 12)
    pure = train_step(model, loss, (accuracy,))
    params, state = model.params, model.optimizer_state
    ours, theirs = np.random.default_rng(7), np.random.default_rng(7)
    for _ in range(rounds):
        for rows in BATCHES:
            x, target = backend.asarray(X[rows].copy()), backend.asarray(y[rows].copy())
            w = None if weight is None else backend.asarray(weight[rows])
            noise = model.draw_noise(theirs, tuple(x.shape))
            noise = None if noise is None else place(backend, noise)
            rate = model.optimizer.learning_rate_at(model.steps)  # type: ignore[union-attr]
            params, state, expected = pure(params, state, x, target, w, noise, rate)
            values = step(x, target, w, ours)
            np.testing.assert_allclose([float(v) for v in values], [float(v) for v in expected], rtol=1e-12)
            np.testing.assert_array_equal(to_numpy(x), X[rows])
            np.testing.assert_array_equal(to_numpy(target), y[rows])
    for key, value in flatten(own).items():
        np.testing.assert_array_equal(to_numpy(value), before[key])
    step.hand_over()
    assert model.steps == rounds * len(BATCHES)
    for actual, wanted in ((model.params, params), (model.optimizer_state, state)):
        actual, wanted = flatten(actual), flatten(wanted)
        assert set(actual) == set(wanted)
        for key, value in wanted.items():
            np.testing.assert_allclose(to_numpy(actual[key]), to_numpy(value), rtol=1e-9, atol=1e-12, err_msg=key)
            assert actual[key].dtype == value.dtype
            assert actual[key].shape == value.shape


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model(name: str) -> None:
    compare(built(name, Adam(0.01)), SoftmaxCrossEntropy(), LABELS)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("name", ["relu", "norms", "nested", "rules"])
def test_every_optimizer(name: str, optimizer: Any) -> None:
    compare(built(name, optimizer), SoftmaxCrossEntropy(), LABELS, rounds=3)


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (SoftmaxCrossEntropy(0.1), LABELS),
        (SoftmaxCrossEntropy(class_weight=(1, 2, 3)), LABELS),
        (SoftmaxCrossEntropy(), ONE_HOT),
        (MeanSquaredError(), ONE_HOT),
        (Huber(), ONE_HOT),
    ],
    ids=repr,
)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_way_of_losing(loss: Loss, target: Any, weighted: bool) -> None:
    weight = RNG.uniform(0.5, 2.0, size=30) if weighted else None
    compare(built("relu", Adam(0.01)), loss, target, weight)


@pytest.mark.parametrize("tile", [1, 8, 24, 10**6])
def test_gradients_in_tiles(monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    monkeypatch.setattr(stages, "TILE", tile)
    for name in ("relu", "no bias", "one layer"):
        for optimizer in (Adam(0.01), AdamW(0.1, weight_decay=0.5, no_decay=["w0"])):
            compare(built(name, optimizer), SoftmaxCrossEntropy(), LABELS)


def test_small_layers_are_one_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(workspace.kernels_for(""), "chain") or not stages.SMALL:
        pytest.skip("each layer is a stage of its own")

    def kinds(name: str) -> list[str]:
        model = built(name, Adam(0.01))
        compare(model, SoftmaxCrossEntropy(), LABELS)
        return [type(stage).__name__ for stage in FusedStep(model, SoftmaxCrossEntropy(), (), 12).stages]

    assert kinds("relu") == ["ChainStage"]
    assert kinds("dropout") == ["DropoutStage", "ChainStage", "DropoutStage", "ChainStage"]
    assert kinds("frozen first") == ["DenseStage", "ChainStage"]
    assert kinds("no bias") == ["DenseStage", "DenseStage"]
    assert kinds("sigmoid") == ["DenseStage", "ChainStage", "DenseStage"]
    monkeypatch.setattr(stages, "SMALL", 12 * 7 * 8 - 1)  # the second layer of three is larger
    assert kinds("relu") == ["ChainStage", "DenseStage", "ChainStage"]


def test_layers_that_were_moved_unequally_often_stay_apart() -> None:
    """A chain is moved by one count of steps."""
    model = built("relu", Adam(0.01))
    for name, steps in (("dense", 0.0), ("dense_1", 7.0), ("dense_2", 7.0)):
        for own in model.optimizer_state[name].values():
            own["steps"] = own["steps"] + steps
    compare(model, SoftmaxCrossEntropy(), LABELS)


@pytest.mark.parametrize("kind", ["columns", "every other row", "read-only"])
def test_batches_of_any_memory(kind: str) -> None:
    backend = get_backend()
    if kind == "read-only" and backend.name != "numpy":
        pytest.skip("only NumPy has such arrays")
    model = built("relu", SGD(0.1))
    wanted = FusedStep(model, SoftmaxCrossEntropy(), (), 12)(
        backend.asarray(X[:12].copy()), backend.asarray(LABELS[:12]), None, None
    )
    x = backend.asarray(X.T.copy()).T[:12] if kind == "columns" else backend.asarray(np.repeat(X, 2, axis=0))[:24:2]
    if kind == "read-only":
        x.flags.writeable = False
    actual = FusedStep(model, SoftmaxCrossEntropy(), (), 12)(x, backend.asarray(LABELS[:12]), None, None)
    np.testing.assert_allclose(float(actual[0]), float(wanted[0]), rtol=1e-12)


def test_what_is_left_to_the_pure_step() -> None:
    class Own(SGD):
        def direction(self, param: Any, grad: Any, state: Any) -> Any:
            return 2.0 * grad, state

    def model(**kwargs: Any) -> Sequential:
        made = Sequential([Dense(3)], input_shape=(6,), rng=0, **{k: v for k, v in kwargs.items() if k != "optimizer"})
        made.initialize(kwargs.get("optimizer", "sgd"))
        return made

    assert FusedStep.serves(model(), 2)
    assert not FusedStep.serves(model(), 3)
    assert not FusedStep.serves(model(dtype="float16"), 2)
    assert not FusedStep.serves(model(optimizer=Own(0.1)), 2)
    assert not FusedStep.serves(model(optimizer=None), 2)
    assert not FusedStep.serves(model(backend="array_api_strict"), 2)
    uneven = model(optimizer="adam")
    uneven.layers[0].optimizer_state["w0"]["steps"] += 3.0
    assert not FusedStep.serves(uneven, 2)


def test_the_model_has_the_arrays_of_each_epoch_for_good() -> None:
    """Whoever keeps `model.params` in a callback keeps that epoch."""
    model = Sequential([Dense(4, activation="relu"), Dense(3)], rng=0)
    kept: list[Any] = []
    copies: list[Any] = []

    def keep(run: Any) -> None:
        kept.append(run.model.weights)
        copies.append({key: to_numpy(value).copy() for key, value in run.model.weights.items()})

    model.fit(X, LABELS, 4, 12, callbacks=[keep])
    for arrays, values in zip(kept, copies, strict=True):
        for key, value in values.items():
            np.testing.assert_array_equal(to_numpy(arrays[key]), value)
    assert not np.array_equal(copies[0]["dense.W"], copies[1]["dense.W"])


def test_the_memory_of_a_step(kernels: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters, optimizer state and activations, and 10 % more, in a model whose layers are large."""
    if workspace.kernels_for("").NAME not in ("numpy", "numba"):
        pytest.skip("tracemalloc sees NumPy's memory alone")
    sizes, batch = (512, 1024, 1024, 500), 256
    model = Sequential([Dense(n, activation="relu") for n in sizes[1:-1]] + [Dense(sizes[-1])], rng=0)
    model.set_input_shape(sizes[:1])
    model.initialize(Adam())
    x = RNG.normal(size=(batch, sizes[0])).astype("float32")
    labels = RNG.integers(0, sizes[-1], size=batch)
    needed = 4 * (3 * model.parameters() + batch * sum(sizes[1:]))
    monkeypatch.setattr(stages, "TILE", stages.TILE // 4)  # this model is half the size of a large one each way
    FusedStep(model, SoftmaxCrossEntropy(), (), batch)(x, labels, None, None)  # compiled before it is measured
    tracemalloc.start()
    try:
        step = FusedStep(model, SoftmaxCrossEntropy(), (), batch)
        for _ in range(2):
            step(x, labels, None, None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 1.10 * needed, peak / needed
