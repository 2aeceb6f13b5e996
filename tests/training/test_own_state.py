"""What layers keep beside their params: brought back after failures and by early stopping, saved, or refused."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_api_compat import array_namespace

from dense_xp import (
    SGD,
    Checkpoint,
    Dense,
    DivergenceError,
    EarlyStopping,
    Layer,
    ModelFileError,
    ReLU,
    Sequential,
    StepSchedule,
    describe,
    load,
    save,
)
from dense_xp.backend import Backend, to_numpy

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(24, 4)).astype("float32"), RNG.normal(size=(24, 2)).astype("float32")


class Closed(Layer):
    """A learner's layer: one factor, moved in place; it counts its steps, and the outputs that it has seen."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.factor: Any = np.ones(1)
        self.seen = np.zeros(2, dtype="int64")
        self.count = 0

    def initialize(self, optimizer: Any = None) -> None:
        self.factor = np.ones(1)

    def parameters(self) -> int:
        return 1

    def forward_pass(self, X: Any, training: bool = True) -> Any:
        self.layer_input = X
        if training:
            self.seen += (1, X.shape[0])
        return X * float(self.factor[0])

    def backward_pass(self, accum_grad: Any) -> Any:
        back = accum_grad * float(self.factor[0])
        self.factor -= 0.05 * float(array_namespace(accum_grad).sum(self.layer_input * accum_grad))
        self.count += 1
        return back

    def output_shape(self) -> tuple[int, ...]:
        return self.known_input_shape()


class Open(Closed):
    def get_state(self) -> dict[str, Any]:
        return {"factor": self.factor, "seen": self.seen, "count": self.count}

    def set_state(self, state: dict[str, Any]) -> None:
        self.factor, self.seen, self.count = state["factor"], state["seen"], state["count"]


class Counted(Dense):
    """A pure layer that keeps something beside its params."""

    calls = 0

    def draw_noise(self, rng: Any, batch_shape: tuple[int, ...]) -> Any:
        self.calls += 1

    def get_state(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def set_state(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


def network(kind: type[Layer] = Open, backend: Any = None) -> Sequential:
    inner = Sequential([kind(name="mine"), Dense(3)], name="inner")
    model = Sequential([Counted(5), inner, ReLU(), Dense(2)], input_shape=(4,), backend=backend, rng=0)
    model.initialize(SGD(StepSchedule(0.02, 4, 0.5)))
    return model


def mine(model: Sequential) -> Any:
    return model.layers[1].children["mine"]


def everything(model: Sequential) -> dict[str, Any]:
    arrays = {name: to_numpy(value).copy() for name, value in model.weights.items()}
    own = mine(model)
    return {**arrays, "factor": own.factor.copy(), "seen": own.seen.copy(), "count": own.count}


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(actual) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(actual[key], value, err_msg=key)


class Scores:
    """Writes a score of its own choice into the history, before others look."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = iter(scores)

    def begin(self, run: Any) -> None:
        pass

    def epoch_end(self, run: Any) -> None:
        run.history.metrics.setdefault("score", []).append(next(self.scores))

    def end(self, run: Any) -> None:
        pass


def test_a_failed_epoch_leaves_nothing_behind(backend: Backend) -> None:
    model = network(backend=backend)
    model.fit(X, Y, 1, 8, shuffle=False)
    before, calls = everything(model), 0

    def broken(prediction: Any, target: Any, weight: Any = None) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyError("broken")
        return array_namespace(prediction).sum(prediction)

    with pytest.raises(KeyError, match="broken") as caught:
        model.fit(X, Y, 1, 8, metrics=[broken], shuffle=False)
    assert_same(everything(model), before)
    assert not hasattr(caught.value, "__notes__")
    assert model.fit(X, Y, 1, 8, shuffle=False).epochs == 1


@pytest.mark.parametrize("kind", [Closed, Open])
def test_a_divergence_says_what_is_not_as_before(kind: type[Layer]) -> None:
    model = network(kind)
    model.initialize(SGD(1e30))
    before = everything(model)
    with pytest.raises(DivergenceError) as caught:
        model.fit(X * 1e4, Y, 3, 8)
    after = everything(model)
    if kind is Open:
        assert_same(after, before)
        assert "before that epoch again. Try" in str(caught.value)
        assert not hasattr(caught.value, "__notes__")
    else:
        assert after["count"] > 0
        assert "before that epoch again (but for mine). Try" in str(caught.value)
        assert "mine with only the stateful methods: write get_state" in caught.value.__notes__[0]


def test_early_stopping_brings_it_back() -> None:
    through = network()
    through.fit(X, Y, 2, 8, shuffle=False)
    model = network()
    scores = Scores([3.0, 1.0, 2.0, 4.0])
    history = model.fit(X, Y, 4, 8, shuffle=False, callbacks=[scores, EarlyStopping("score", mode="min", patience=5)])
    assert history.best_epoch == 2
    assert history.best_own is None
    assert_same(everything(model), everything(through))
    assert model.layers[0].calls == 6  # type: ignore[attr-defined]


@pytest.mark.parametrize("training", [False, True])
def test_it_is_saved(tmp_path: Path, training: bool) -> None:
    model = network()
    model.fit(X, Y, 2, 8, shuffle=False)
    save(model, tmp_path / "m", training=training)
    again = load(tmp_path / "m", custom=[Open, Counted])
    expected = everything(model)
    assert_same(everything(again), expected)
    assert type(mine(again).count) is int
    assert mine(again).seen.dtype == np.int64
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same(everything(other), expected)
    if training:
        for one in (model, again):
            one.fit(X, Y, 2, 8)
        assert_same(everything(again), everything(model))
        assert again.layers[0].calls == model.layers[0].calls > 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("killed", [1, 2, 3, 5])
def test_early_stopping_goes_on_to_the_same_bits(tmp_path: Path, killed: int) -> None:
    scores = [3.0, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]

    def train(model: Sequential, start: int, history: Any = None) -> Any:
        stopping = EarlyStopping("score", mode="min", patience=3)
        callbacks = [Scores(scores[start:]), stopping, Checkpoint(tmp_path / "{epoch}")]
        return model.fit(X, Y, 7 - start, 8, callbacks=callbacks, history=history)

    through = network()
    assert train(through, 0).epochs == 6
    history = describe(tmp_path / str(killed))["history"]
    for _ in range(2):  # the description is not used up
        again = load(tmp_path / str(killed), custom=[Open, Counted])
        assert train(again, killed, history).best_epoch == 2
        assert_same(everything(again), everything(through))


def test_a_model_of_nothing_else(tmp_path: Path) -> None:
    model = Sequential([Open()], input_shape=(2,), rng=0)
    model.fit(X[:, :2], Y, 3, 8, callbacks=[Scores([1.0, 2.0, 3.0]), EarlyStopping("score", mode="min")], shuffle=False)
    assert model.layers[0].count == 3  # type: ignore[attr-defined]
    save(model, tmp_path / "m")
    assert load(tmp_path / "m", custom=[Open]).layers[0].count == 3


def test_until_then_it_is_refused_by_name(tmp_path: Path) -> None:
    model = network(Closed)
    model.fit(X, Y, 1, 8)  # to learn is no matter
    before = everything(model)
    says = r"cannot keep what is in mine with only the stateful methods: write get_state.*set_state\(state\)"
    with pytest.raises(ValueError, match="^a model file " + says):
        save(model, tmp_path / "m")
    with pytest.raises(ValueError, match="^Checkpoint " + says):
        model.fit(X, Y, 1, 8, callbacks=[Checkpoint(tmp_path / "m")])
    with pytest.raises(ValueError, match="^EarlyStopping with restore_best_weights " + says):
        model.fit(X, Y, 1, 8, callbacks=[EarlyStopping("loss")])
    assert_same(everything(model), before)
    assert not list(tmp_path.iterdir())
    model.fit(X, Y, 1, 8, callbacks=[EarlyStopping("loss", restore_best_weights=False)])


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ([1], r"mine.get_state returns a dict of arrays and numbers, and this is \[1\]"),
        ({1: 2}, "mine.get_state returns a dict"),
        ({"a": "text"}, "mine.get_state has 'a', which is neither an array nor a number: 'text'"),
        ({"a": np.array(["x"])}, "mine.get_state has 'a'"),
        ({"a": [1.0]}, "mine.get_state has 'a'"),
    ],
)
def test_what_a_state_is_made_of(tmp_path: Path, state: Any, says: str) -> None:
    class Wrong(Closed):
        def get_state(self) -> Any:
            return state

    with pytest.raises(TypeError, match=says):
        save(network(Wrong), tmp_path / "m")
    with pytest.raises(TypeError, match=says):
        network(Wrong).fit(X, Y, 1, 8)


def test_a_file_for_other_layers_is_refused(tmp_path: Path) -> None:
    save(network(), tmp_path / "m")
    closed = type("Open", (Closed,), {})
    with pytest.raises(ModelFileError, match=r"a state for the layers \['counted', 'inner.mine'\], and \['counted'\]"):
        load(tmp_path / "m", custom=[closed, Counted])

    class Picky(Open):
        def set_state(self, state: dict[str, Any]) -> None:
            raise KeyError("momentum")

    with pytest.raises(ModelFileError, match="no 'momentum'"):
        load(tmp_path / "m", custom=[type("Open", (Picky,), {}), Counted])


@pytest.mark.parametrize("hidden", [Dense, Closed])
def test_optimizers_that_are_not_ours_go_back_too(hidden: type[Layer]) -> None:
    class Momentum:
        def __init__(self) -> None:
            self.velocity: Any = 0.0

        def update(self, weights: Any, grad: Any) -> Any:
            self.velocity = 0.9 * self.velocity + grad
            return weights - 0.01 * self.velocity

    layers = [Dense(2)] if hidden is Dense else [hidden(), Dense(2)]
    model = Sequential(layers, input_shape=(4,), rng=0)
    model.fit(X, Y, 1, 8, optimizer=Momentum(), shuffle=False)
    before = [copy.deepcopy(model.layers[-1].optimizer_of(name)).velocity for name in ("W", "w0")]
    calls = 0

    def broken(prediction: Any, target: Any, weight: Any = None) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise MemoryError
        return prediction.sum()

    with pytest.raises(MemoryError):
        model.fit(X, Y, 1, 8, metrics=[broken])
    for name, expected in zip(("W", "w0"), before, strict=True):
        np.testing.assert_array_equal(model.layers[-1].optimizer_of(name).velocity, expected)
