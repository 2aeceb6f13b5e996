"""Checkpoints and logs as a training writes them, and the learning rate that follows what it measures."""

from __future__ import annotations

import csv
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dense_xp import (
    SGD,
    Adam,
    Callback,
    Checkpoint,
    CosineSchedule,
    CSVLog,
    Dense,
    EarlyStopping,
    History,
    ReduceLROnPlateau,
    ScaledSchedule,
    Schedule,
    Sequential,
    TensorBoard,
    describe,
    load,
    save,
)
from dense_xp.backend import Backend, to_numpy
from tests.training.test_sequential import Doubling

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 4))
Y = RNG.normal(size=30)
RULE = SGD(0.1)


def model(backend: Any = "numpy") -> Sequential:
    return Sequential([Dense(5, activation="relu"), Dense(1)], backend=backend, rng=0)


class Scores:
    """Measures what it was given to measure, one number an epoch."""

    def __init__(self, scores: Sequence[float]) -> None:
        self.scores = iter(scores)

    def __call__(self, run: Any) -> None:
        run.history.record({"score": next(self.scores)})


def rates(callbacks: Sequence[Any], epochs: int, optimizer: Any = RULE, net: Any = None, **kwargs: Any) -> list[float]:
    """Return the learning rate of each epoch."""
    seen: list[float] = []
    every = [*callbacks, lambda run: seen.append(run.learning_rate)]
    (net or model()).fit(X, Y, epochs, 10, optimizer=optimizer, callbacks=every, **kwargs)
    return seen


def assert_same(one: Sequential, other: Sequential) -> None:
    assert set(one.weights) == set(other.weights)
    for name, value in one.weights.items():
        np.testing.assert_array_equal(to_numpy(value), to_numpy(other.weights[name]), err_msg=name)


def test_a_training_goes_on_from_its_checkpoint(backend: Backend, tmp_path: Path) -> None:
    through = model(backend)
    through.fit(X, Y, 3, 10)
    through.fit(X, Y, 2, 10)
    path = tmp_path / "model.safetensors"
    model(backend).fit(X, Y, 3, 10, callbacks=[Checkpoint(path)])
    resumed = load(path, backend)
    resumed.fit(X, Y, 2, 10)
    assert_same(resumed, through)
    assert describe(path)["history"].epochs == 3


def test_every_few_epochs_each_in_its_file(tmp_path: Path) -> None:
    model().fit(X, Y, 5, 10, callbacks=[Checkpoint(tmp_path / "at-{epoch}", every=2)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["at-2", "at-4"]
    assert describe(tmp_path / "at-4")["steps"] == 12


@pytest.mark.parametrize(("mode", "kept"), [("min", [1, 3]), ("max", [1, 2, 4])])
def test_the_best_epochs_alone(tmp_path: Path, mode: str, kept: list[int]) -> None:
    checkpoint = Checkpoint(tmp_path / "{epoch}", monitor="score", mode=mode)
    model().fit(X, Y, 5, 10, callbacks=[Scores([3.0, 4.0, 2.0, 5.0, float("nan")]), checkpoint])
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == kept
    with pytest.raises(ValueError, match=r"Checkpoint watches 'score', and the history has only \['loss'\]"):
        model().fit(X, Y, 1, 10, callbacks=[checkpoint])


@pytest.mark.parametrize("arguments", [{"every": 0}, {"every": True}, {"every": 1.5}, {"mode": "best"}])
def test_arguments_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be"):
        Checkpoint("x", **arguments)


def rows(path: str) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_log_has_a_line_for_each_epoch(tmp_path: Path) -> None:
    log = CSVLog(tmp_path / "log.csv")
    assert isinstance(log, Callback)
    trained = model()
    history = trained.fit(X, Y, 3, 10, validation_data=(X, Y), callbacks=[log])
    found = rows(log.path)
    assert [row["epoch"] for row in found] == ["1", "2", "3"]
    for name in ("loss", "val_loss"):
        assert [float(row[name]) for row in found] == history[name]
    assert 0 < float(found[0]["seconds"]) <= float(found[2]["seconds"]) <= history.seconds + 1e-6
    assert {float(row["learning_rate"]) for row in found} == {0.001}

    trained.fit(X, Y, 2, 10, validation_data=(X, Y), callbacks=[CSVLog(log.path, append=True)])
    assert [row["epoch"] for row in rows(log.path)] == ["1", "2", "3", "4", "5"]
    with pytest.raises(ValueError, match=r"this training measures \['loss'\]: write another file"):
        trained.fit(X, Y, 1, 10, callbacks=[CSVLog(log.path, append=True)])
    assert len(rows(log.path)) == 5
    trained.fit(X, Y, 1, 10, callbacks=[log])
    assert [row["epoch"] for row in rows(log.path)] == ["1"]


def test_a_log_without_a_learning_rate(tmp_path: Path) -> None:
    class Own:
        def update(self, weights: Any, grad: Any) -> Any:
            return weights - 0.1 * grad

    log = CSVLog(tmp_path / "log.csv")
    model().fit(X, Y, 1, 10, optimizer=Own(), callbacks=[log, TensorBoard(Writer())])
    assert rows(log.path)[0]["learning_rate"] == ""
    with pytest.raises(TypeError, match=r"the learning rate of .*Own object.* cannot be changed from here"):
        model().fit(X, Y, 1, 10, optimizer=Own(), callbacks=[ReduceLROnPlateau("loss"), CSVLog(log.path)])
    assert len(rows(log.path)) == 1


# ------------------------------------------------------------------ going on with a history


def test_a_history_goes_on(tmp_path: Path) -> None:
    log = CSVLog(tmp_path / "log.csv", append=True)
    best = Checkpoint(tmp_path / "best-{epoch}", monitor="score", mode="min")
    net = model()
    first = net.fit(X, Y, 3, 10, callbacks=[Scores([3.0, 1.0, 2.0]), log, best])
    before = {name: list(values) for name, values in first.items()}
    second = net.fit(X, Y, 2, 10, history=first, callbacks=[Scores([1.5, 0.5]), log, best])
    through = model().fit(X, Y, 5, 10, callbacks=[Scores([3.0, 1.0, 2.0, 1.5, 0.5])])
    assert dict(second) == dict(through)
    assert dict(first) == before
    assert (second.epochs, second.samples) == (5, 150)
    assert second.seconds > first.seconds
    assert [row["epoch"] for row in rows(log.path)] == ["1", "2", "3", "4", "5"]
    assert sorted(path.name for path in tmp_path.glob("best*")) == ["best-1", "best-2", "best-5"]
    with pytest.raises(ValueError, match=r"the history has no \['val_loss'\], which this training measures"):
        net.fit(X, Y, 1, 10, history=first, validation_data=(X, Y))
    assert dict(first) == before
    assert net.fit(X, Y, 1, 10, history=History()).epochs == 1


def test_what_is_no_longer_measured_is_not_watched() -> None:
    net = model()
    history = net.fit(X, Y, 2, 10, callbacks=[Scores([3.0, 1.0])])
    with pytest.raises(ValueError, match=r"Checkpoint watches 'score', and the history has only \['loss'\]"):
        net.fit(X, Y, 1, 10, history=history, callbacks=[Checkpoint("never", monitor="score", mode="min")])


def test_patience_goes_on() -> None:
    scores = [3.0, 1.0, 2.0, 1.5, 1.2, 0.1]
    stopping = EarlyStopping("score", mode="min", patience=2)
    through = model().fit(X, Y, 6, 10, callbacks=[Scores(scores), stopping])
    assert (through.epochs, through.best_epoch) == (5, 2)
    net = model()
    history = net.fit(X, Y, 3, 10, callbacks=[Scores(scores), stopping])
    history = net.fit(X, Y, 3, 10, history=history, callbacks=[Scores(scores[3:]), stopping])
    assert (history.epochs, history.stopped) == (5, through.stopped)
    assert history.best_epoch is None  # its weights are those of an earlier training


# ------------------------------------------------------------------ the learning rate


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    "settings",
    [
        {"patience": 0},
        {"patience": 2, "factor": 0.5},
        {"patience": 1, "cooldown": 2},
        {"patience": 0, "cooldown": 1, "min_delta": 0.3},
        {"patience": 1, "min_lr": 0.004},
    ],
    ids=repr,
)
def test_it_reduces_when_torch_does(settings: dict[str, Any], mode: str) -> None:
    torch = pytest.importorskip("torch")
    scores = np.random.default_rng(4).normal(size=30).cumsum().tolist()
    ours = rates([Scores(scores), ReduceLROnPlateau("score", mode=mode, **settings)], 30)
    rule = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        rule,
        mode,
        **{"patience": 10, "factor": 0.1, "cooldown": 0, "min_lr": 0.0}
        | {key: value for key, value in settings.items() if key != "min_delta"},
        threshold=settings.get("min_delta", 0.0),
        threshold_mode="abs",
        eps=0.0,
    )
    expected = []
    for score in scores:
        expected.append(rule.param_groups[0]["lr"])
        theirs.step(score)
    assert ours == pytest.approx(expected, rel=1e-12)
    assert ours[-1] < 0.1


class Halving(Schedule):
    """What the callback below comes to, as a schedule: half the rate in each epoch of three steps from the third on."""

    def __call__(self, step: int) -> float:
        return 0.1 * 0.5 ** max(0, step // 3 - 1)


def halved() -> ReduceLROnPlateau:
    """The first epoch stays the best, so that each later one reduces."""
    return ReduceLROnPlateau("loss", factor=0.5, patience=0, min_delta=1e9)


@pytest.mark.parametrize("own", [False, True])
def test_every_step_takes_the_reduced_rate(backend: Backend, own: bool) -> None:
    if own and backend.name != "numpy":
        pytest.skip("the learner's layer is of NumPy")

    def net() -> Sequential:
        layers = [Dense(5, activation="relu"), Doubling(), Dense(1)] if own else [Dense(5), Dense(1)]
        return Sequential(layers, backend=backend, rng=0)

    scheduled, reduced = net(), net()
    passed = SGD(0.1, momentum=0.9)
    expected = rates([], 4, SGD(Halving(), momentum=0.9), scheduled)
    assert rates([halved()], 4, passed, reduced) == expected == [0.1, 0.1, 0.05, 0.025]
    assert_same(scheduled, reduced)
    assert passed == SGD(0.1, momentum=0.9)
    assert reduced.optimizer == SGD(0.0125, momentum=0.9)
    if own:
        np.testing.assert_array_equal(scheduled.layers[1].scale, reduced.layers[1].scale)  # type: ignore[attr-defined]
        assert reduced.layers[1].scale[0, 0] != 2  # type: ignore[attr-defined]


def test_a_schedule_is_scaled() -> None:
    schedule = CosineSchedule(0.1, 12, end=0.01)
    net = model()
    passed = Adam(schedule)
    found = rates([halved()], 4, passed, net)
    assert found == [schedule(3 * epoch + 2) * 0.5 ** max(0, epoch - 1) for epoch in range(4)]
    assert net.optimizer == Adam(ScaledSchedule(schedule, 0.125))
    assert passed == Adam(schedule)


def test_the_lowest_rate() -> None:
    reduce = ReduceLROnPlateau("loss", factor=0.5, patience=0, min_delta=1e9, min_lr=0.03)
    assert rates([reduce], 6) == pytest.approx([0.1, 0.1, 0.05, 0.03, 0.03, 0.03])
    assert rates([reduce], 3, SGD(0.01)) == [0.01] * 3  # it is not raised either
    assert rates([reduce], 3, SGD(0.0)) == [0.0] * 3


def test_nothing_is_compiled_anew() -> None:
    pytest.importorskip("jax")
    traces = []

    class Counting(Dense):
        def forward(self, params: Any, X: Any, **kwargs: Any) -> Any:
            traces.append(X.shape)
            return super().forward(params, X, **kwargs)

    net = Sequential([Counting(1)], backend="jax", rng=0)
    assert rates([halved()], 4, RULE, net)[-1] == 0.025
    assert RULE.learning_rate == 0.1
    assert len(traces) == 1


@pytest.mark.parametrize("epochs", [2, 3, 4])
def test_a_reduced_training_goes_on_to_the_same_bits(backend: Backend, tmp_path: Path, epochs: int) -> None:
    """Stopped in the midst of its patience, after a reduction, and while it rests from one."""
    scores = [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.5, 2.0]

    def callbacks(scores: Sequence[float]) -> list[Any]:
        reduce = ReduceLROnPlateau("score", mode="min", factor=0.3, patience=1, cooldown=1)
        return [Scores(scores), reduce, Checkpoint(tmp_path / "model")]

    through, stopped = model(backend), model(backend)
    expected = rates(callbacks(scores), 8, Adam(CosineSchedule(0.1, 24)), through)
    assert len({rate / CosineSchedule(0.1, 24)(3 * i + 2) for i, rate in enumerate(expected)}) > 2
    rates(callbacks(scores), epochs, Adam(CosineSchedule(0.1, 24)), stopped)
    resumed, history = load(tmp_path / "model", backend), describe(tmp_path / "model")["history"]
    assert history.epochs == epochs
    later = rates(callbacks(scores[epochs:]), 8 - epochs, None, resumed, history=history)
    assert later == expected[epochs:]
    assert_same(resumed, through)


@pytest.mark.parametrize(
    "arguments",
    [{"factor": 0.0}, {"factor": 1.0}, {"patience": -1}, {"cooldown": -1}, {"min_lr": -1.0}, {"min_lr": float("nan")},
     {"min_delta": -1.0}, {"mode": "best"}],
)  # fmt: skip
def test_plateaus_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must"):
        ReduceLROnPlateau(**arguments)


# ------------------------------------------------------------------ TensorBoard


class Writer:
    """What any writer of scalars has."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.lines.append((tag, value, step))


def scalars(path: Path) -> Iterator[tuple[str, float, int]]:
    """Read an event file: records of a length, its checksum, an event, and its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        for value in event.summary.value:
            yield value.tag, value.simple_value, event.step


def test_what_tensorboard_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX")
    monkeypatch.setattr("time.time", lambda: 1e9)  # both trainings in the same second
    board, writer = TensorBoard(tmp_path / "logs"), Writer()
    assert isinstance(board, Callback)
    net = model()
    history = net.fit(
        X, Y, 3, 10, metrics=["r2"], validation_data=(X, Y), callbacks=[halved(), board, TensorBoard(writer)],
        optimizer=SGD(0.1),
    )  # fmt: skip
    (path,) = (tmp_path / "logs").iterdir()
    found = list(scalars(path))
    for name in ("loss", "r2", "val_loss", "val_r2"):
        assert [value for tag, value, _ in found if tag == name] == pytest.approx(history[name], rel=1e-6)
    assert [value for tag, value, _ in found if tag == "learning_rate"] == pytest.approx([0.1, 0.1, 0.05])
    assert [step for tag, _, step in found if tag == "loss"] == [1, 2, 3]
    assert [(tag, step) for tag, _, step in writer.lines] == [(tag, step) for tag, _, step in found]

    net.fit(X, Y, 1, 10, metrics=["r2"], validation_data=(X, Y), history=history, callbacks=[board])
    (more,) = set((tmp_path / "logs").iterdir()) - {path}
    assert {step for _, _, step in scalars(more)} == {4}
    assert list(scalars(path)) == found


def test_tensorboard_without_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r'pip install "dense-xp\[tensorboard\]"'):
        TensorBoard(tmp_path)


# ------------------------------------------------------------------ which way is up


def rising(epochs: int = 6) -> tuple[list[Any], Any]:
    """Return the callbacks that watch a measure, and data that are learned so that it rises."""
    watch: list[Any] = [EarlyStopping("val_accuracy", patience=1), ReduceLROnPlateau("val_accuracy", patience=1)]
    return watch, (X, (X[:, 0] > 0).astype("int64"))


def test_a_rising_accuracy_is_progress(tmp_path: Path) -> None:
    watch, data = rising()
    best = Checkpoint(tmp_path / "best", monitor="val_accuracy")
    net = Sequential([Dense(2)], rng=0)
    history = net.fit(
        *data, 12, 8, optimizer=SGD(0.05), metrics=["accuracy"], validation_data=data, callbacks=[*watch, best]
    )
    column = history["val_accuracy"]
    assert column[-1] > column[0]
    assert history.best_epoch == int(np.argmax(column)) + 1
    assert load(tmp_path / "best").evaluate(*data, metrics=["accuracy"])["accuracy"] == pytest.approx(max(column))


def mine(prediction: Any, target: Any) -> Any:
    return (prediction * 0.0).sum()


@pytest.mark.parametrize("make", [EarlyStopping, ReduceLROnPlateau, lambda name: Checkpoint("x", monitor=name)])
def test_a_measure_that_does_not_say_so_must_be_explained(make: Any) -> None:
    net = model()
    before = {name: value.copy() for name, value in net.weights.items()} if net.backend else {}
    with pytest.raises(ValueError, match=r"whether large values of 'mine' are good: pass mode='max' or mode='min'"):
        net.fit(X, Y, 1, metrics=[mine], callbacks=[make("mine")])
    assert all(np.array_equal(value, net.weights[name]) for name, value in before.items())
    told = mine
    told.greater_is_better = False  # type: ignore[attr-defined]
    try:
        net.fit(X, Y, 1, metrics=[told], callbacks=[EarlyStopping("mine")])
    finally:
        del told.greater_is_better  # type: ignore[attr-defined]


# ------------------------------------------------------------------ a log after a kill


@pytest.mark.parametrize("earlier", [0, 2])  # epochs of another training in the same file
@pytest.mark.parametrize("logged", [1, 2, 3, 5])
@pytest.mark.parametrize("tail", ["", "\n", "4,0.1", "4,0.5,0.001,0.9", '"4,', "4,0.1,0.001,0.5,7\n", "x,y,z,w\n\n"])
def test_a_resumed_training_has_one_line_for_each_epoch(tmp_path: Path, earlier: int, logged: int, tail: str) -> None:
    """Killed after some lines, perhaps within one; the checkpoint is of epoch 3."""
    path = tmp_path / "log.csv"
    if earlier:
        model().fit(X[::-1], Y, earlier, 10, callbacks=[CSVLog(path)])
    net = model()
    log = CSVLog(path, append=True)

    def checkpoint(run: Any) -> None:
        if run.epoch == 3:
            save(run.model, tmp_path / "model", training=True, history=run.history)

    net.fit(X, Y, 5, 10, callbacks=[log, checkpoint])
    through = rows(log.path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: 1 + earlier + logged]) + tail)

    again = load(tmp_path / "model")
    again.fit(X, Y, 2, 10, history=describe(tmp_path / "model")["history"], callbacks=[CSVLog(path, append=True)])
    found = rows(log.path)
    assert [row["epoch"] for row in found] == [str(i + 1) for i in range(earlier + 5)]
    assert [row["loss"] for row in found] == [row["loss"] for row in through]
    assert path.read_text().endswith("\n")


def test_an_empty_or_torn_header_is_a_new_log(tmp_path: Path) -> None:
    for text in ("", "\n\n", "epoch,sec"):
        (tmp_path / "log.csv").write_text(text)
        model().fit(X, Y, 2, 10, callbacks=[CSVLog(tmp_path / "log.csv", append=True)])
        assert [row["epoch"] for row in rows(str(tmp_path / "log.csv"))] == ["1", "2"]


# ------------------------------------------------------------------ what is part of a training


@pytest.mark.parametrize("killed", [2, 5, 7, 9, 12])
@pytest.mark.parametrize("first", ["stopping", "checkpoint"])
def test_early_stopping_goes_on_to_the_same_bits(backend: Backend, tmp_path: Path, killed: int, first: str) -> None:
    """Also when it has stopped already: a training that has ended does not begin again."""
    scores = [9.0, 8.0, 3.0, 4.0, 5.0, 2.5, 6.0, 7.0, 8.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0]

    def train(net: Sequential, epochs: int, start: int, history: History | None = None) -> History:
        save_it = Checkpoint(tmp_path / "at-{epoch}")
        stopping = EarlyStopping("score", patience=4, mode="min")
        last = [stopping, save_it] if first == "stopping" else [save_it, stopping]
        plateau = ReduceLROnPlateau("score", mode="min", factor=0.5, patience=1)
        return net.fit(X, Y, epochs, 10, callbacks=[Scores(scores[start:]), plateau, *last], history=history)

    through = model(backend)
    whole = train(through, 15, 0)
    assert (whole.epochs, whole.best_epoch) == (11, 6)
    assert whole.best_weights is None
    at = min(killed, whole.epochs)
    history = describe(tmp_path / f"at-{at}")["history"]
    for _ in range(2):  # the second time there is nothing left to do
        again = load(tmp_path / f"at-{at}", backend=backend)
        resumed = train(again, 15 - at, at, history)
        assert (dict(resumed), resumed.best_epoch) == (dict(whole), 6)
        assert_same(again, through)
        again.fit(X, Y, 5, 10, callbacks=[EarlyStopping("score", patience=4, mode="min")], history=resumed)
        assert_same(again, through)


def test_skipped_epochs_are_compared_too(tmp_path: Path) -> None:
    best = Checkpoint(tmp_path / "{epoch}", every=2, monitor="score", mode="min")
    model().fit(X, Y, 6, 10, callbacks=[Scores([1.0, 2.0, 5.0, 0.5, 0.4, 0.3]), best])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "6"]


def test_the_path_of_a_checkpoint(tmp_path: Path) -> None:
    net = model()
    history = net.fit(
        X, Y, 2, 10, validation_data=(X, Y), callbacks=[Checkpoint(tmp_path / "{epoch:03d}-{val_loss:.3f}-{{x}}")]
    )
    expected = [f"{i + 1:03d}-{value:.3f}-{{x}}" for i, value in enumerate(history["val_loss"])]
    assert sorted(path.name for path in tmp_path.iterdir()) == expected
    before = {name: to_numpy(value) for name, value in net.weights.items()}
    with pytest.raises(ValueError, match=r"has the field 'epochs', and known are epoch, loss, val_loss; a brace"):
        net.fit(X, Y, 1, 10, callbacks=[Checkpoint(tmp_path / "{epochs}")])
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*missing: make it first"):
        net.fit(X, Y, 1, 10, callbacks=[Checkpoint(tmp_path / "missing" / "{epoch}")])
    for name, value in net.weights.items():
        np.testing.assert_array_equal(to_numpy(value), before[name])


class EachBatch:
    """Asked after each batch."""

    def __init__(self, stop: int = 0) -> None:
        self.stop_at, self.losses, self.batches = stop, [], []  # type: int, list[float], list[tuple[int, int]]

    def begin(self, run: Any) -> None:
        with pytest.raises(RuntimeError, match="in batch_end"):
            _ = run.batch_loss

    def batch_end(self, run: Any) -> None:
        self.batches.append((run.epoch, run.batch))
        self.losses.append(run.batch_loss)
        if len(self.batches) == self.stop_at:
            run.stop("enough")

    def epoch_end(self, run: Any) -> None:
        pass

    def end(self, run: Any) -> None:
        pass


def test_after_each_batch(backend: Backend) -> None:
    each = EachBatch()
    history = model(backend).fit(X, Y, 2, 10, callbacks=[each])
    assert each.batches == [(epoch, batch) for epoch in (0, 1) for batch in (1, 2, 3)]
    np.testing.assert_allclose(np.reshape(each.losses, (2, 3)).mean(axis=1), history["loss"], rtol=1e-6)


def test_a_training_that_is_stopped_after_a_batch(backend: Backend) -> None:
    stopped, other = model(backend), model(backend)
    history = stopped.fit(X, Y, 5, 10, optimizer=RULE, shuffle=False, callbacks=[EachBatch(stop=4)])
    assert (history.epochs, history.stopped, history.samples, stopped.steps) == (2, "enough", 40, 4)
    other.fit(X, Y, 1, 10, optimizer=RULE, shuffle=False)
    other.fit(X[:10], Y[:10], 1, 10, shuffle=False)
    assert_same(stopped, other)


def test_the_arrays_after_a_batch(backend: Backend) -> None:
    """They are those of the last step, on the way to where the model has them."""
    seen: list[np.ndarray[Any, Any]] = []
    each = EachBatch()
    each.batch_end = lambda run: seen.append(np.array(to_numpy(run.params["dense"]["W"])))  # type: ignore[method-assign]
    net = model(backend)
    net.fit(X, Y, 1, 10, callbacks=[each])
    np.testing.assert_array_equal(seen[-1], to_numpy(net.weights["dense.W"]))
    assert not np.array_equal(seen[0], seen[1])


def test_a_batch_that_nobody_asks_about_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is called as it is where no callback has batch_end."""
    from dense_xp.training import fitting

    steps: list[Any] = []
    run_epochs = fitting.run_epochs
    monkeypatch.setattr(
        fitting, "run_epochs", lambda run, step, *rest: (steps.append(step), run_epochs(run, step, *rest))[1]
    )
    model().fit(X, Y, 1, 10, callbacks=[lambda run: None, EarlyStopping("loss")])
    model().fit(X, Y, 1, 10, callbacks=[EachBatch()])
    assert [type(step).__name__ for step in steps] == ["FusedStep", "AskingStep"]


def test_an_error_after_a_batch_leaves_the_model_as_before_the_epoch(backend: Backend) -> None:
    net, each = model(backend), EachBatch()
    net.fit(X, Y, 1, 10)
    before = {name: np.array(to_numpy(value)) for name, value in net.weights.items()}

    def fail(run: Any) -> None:
        raise ArithmeticError("no")

    each.batch_end = fail  # type: ignore[method-assign]
    with pytest.raises(ArithmeticError):
        net.fit(X, Y, 1, 10, callbacks=[each])
    for name, value in before.items():
        np.testing.assert_array_equal(to_numpy(net.weights[name]), value)


@pytest.mark.parametrize("path", ["{", "{epoch:q}", "{loss!x}", "{epoch.real}", "{}", "missing/{epoch}", "."])
def test_a_path_that_cannot_be_written_is_refused_before_anything_is_learned(tmp_path: Path, path: str) -> None:
    net = model()
    with pytest.raises((ValueError, OSError), match=r"cannot be filled in|has the field|no folder|is a folder"):
        net.fit(X, Y, 1, 10, callbacks=[Checkpoint(f"{tmp_path}/{path}")])
    assert net.steps == 0


@pytest.mark.parametrize("kind", [Checkpoint, CSVLog, TensorBoard])
def test_what_is_no_path(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"a path is a text or a pathlib\.Path, and this is 3"):
        kind(3)


@pytest.mark.parametrize("there", [b"a,b\n1,2\n", b"\xf6\0\n\n", "\n\n"])
def test_a_log_goes_on_with_no_file_that_is_something_else(tmp_path: Path, there: Any) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(there if isinstance(there, bytes) else there.encode())
    if not isinstance(there, bytes):  # blank: an empty log
        model().fit(X, Y, 1, 10, callbacks=[CSVLog(path, append=True)])
        assert len(rows(str(path))) == 1
        return
    with pytest.raises(ValueError, match=r"log\.csv is no log of a training"):
        model().fit(X, Y, 1, 10, callbacks=[CSVLog(path, append=True)])
    assert path.read_bytes() == there
