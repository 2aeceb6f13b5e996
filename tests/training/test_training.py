"""Learning from data: the step, the loop, what it records, and everything that can be wrong with data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dense_xp import (
    SGD,
    Adam,
    BatchNorm,
    Callback,
    CosineSchedule,
    Dense,
    DivergenceError,
    Dropout,
    EarlyStopping,
    LayerNorm,
    MeanSquaredError,
    Sequential,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    get_backend,
    set_backend,
)
from dense_xp.backend import Backend, ForeignArrayError, backend_of, to_numpy, use_backend
from tests.comparing import assert_same_kind
from tests.training.test_sequential import Doubling

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 4)).astype("float32")
LABELS = (X[:, 0] + X[:, 1] > 0).astype("int64") + (X[:, 2] > 1)
VALUES = (X @ np.asarray([[1.0], [-2.0], [0.5], [0.0]], dtype="float32")).astype("float32")


def classifier(backend: Any = None, **kwargs: Any) -> Sequential:
    layers = [Dense(8, activation="tanh"), LayerNorm(), Dropout(0.1), Dense(3)]
    return Sequential(layers, backend=backend, rng=kwargs.pop("rng", 0), **kwargs)


def snapshot(model: Sequential) -> dict[str, Any]:
    return {name: to_numpy(value).copy() for name, value in model.weights.items()}


def assert_same_weights(model: Sequential, weights: dict[str, Any]) -> None:
    assert set(model.weights) == set(weights)
    for name, value in model.weights.items():
        np.testing.assert_array_equal(to_numpy(value), weights[name], err_msg=name)


# ------------------------------------------------------------------ learning


def test_a_network_learns_and_the_history_is_plain(backend: Backend) -> None:
    model = classifier(backend)
    history = model.fit(
        X, LABELS, epochs=25, batch_size=16, optimizer=Adam(0.02), metrics=["accuracy"], validation_data=(X, LABELS)
    )
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert all(type(value) is float for values in history.values() for value in values)
    assert history.epochs == len(history["loss"]) == 25
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["val_accuracy"][-1] > 0.8
    assert history.samples == 25 * 50
    assert history.seconds > 0
    assert history.stopped == ""
    scores = model.evaluate(X, LABELS, metrics=["accuracy"], batch_size=7)
    assert scores["accuracy"] == pytest.approx(history["val_accuracy"][-1])
    assert scores["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-5)


def test_every_backend_learns_the_same(backend: Backend) -> None:
    """One seed: the same initial weights and the same order bit for bit, so nearly the same network."""
    weights, losses = [], []
    for where in (backend, get_backend("numpy")):
        model = classifier(where, dtype="float64", rng=3)
        history = model.fit(X, LABELS, epochs=3, batch_size=16, optimizer="adam")
        weights.append(snapshot(model))
        losses.append(history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-10)
    for name, value in weights[0].items():
        np.testing.assert_allclose(value, weights[1][name], rtol=1e-8, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "float64"])
@pytest.mark.parametrize("on_device", [False, True])
def test_whole_numbers_are_inputs_like_any_other(backend: Backend, dtype: str, on_device: bool) -> None:
    """Pixels, counts and flags become the model's dtype, batch by batch; labels stay whole."""
    if dtype == "float64" and on_device and backend.name == "jax":
        pytest.skip("JAX has no float64 unless it is told to")
    data = np.abs(np.round(3 * X)).astype(dtype)
    results = []
    for inputs in (backend.asarray(data) if on_device else data, data.astype("float32")):
        model = Sequential([Dense(5, activation="tanh"), Dense(3)], backend=backend, rng=0)
        weight = np.arange(len(X)) % 3  # whole numbers too
        history = model.fit(inputs, LABELS, epochs=2, batch_size=16, sample_weight=weight, optimizer="adam")
        prediction = model.predict(inputs)
        assert str(prediction.dtype).endswith("float32")
        results.append((history["loss"], model.evaluate(inputs, LABELS)["loss"], to_numpy(prediction)))
    for whole, floating in zip(*results, strict=True):
        np.testing.assert_array_equal(whole, floating)


def test_fit_is_the_loop_written_out(backend: Backend) -> None:
    """Two epochs of `fit` against forward_pass, loss and backward_pass by hand, last small batch included."""
    fitted, by_hand = (Sequential([Dense(5, activation="tanh"), Dense(1)], rng=1, dtype="float64") for _ in "ab")
    fitted.fit(X, VALUES, 2, 16, optimizer=Adam(0.01, clip_norm=0.5), shuffle=False, rng=0)
    by_hand.to(backend)
    by_hand.set_input_shape((4,))
    by_hand.initialize(Adam(0.01, clip_norm=0.5))
    loss = MeanSquaredError()
    for _ in range(2):
        for start in range(0, 50, 16):
            x, y = (backend.asarray(a[start : start + 16], "float64") for a in (X, VALUES))
            by_hand.backward_pass(loss.gradient(by_hand.forward_pass(x), y))
    for name, value in by_hand.weights.items():
        np.testing.assert_allclose(to_numpy(value), fitted.weights[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_training_goes_on_where_it_was() -> None:
    """Two calls of two epochs are one call of four: weights, optimizer state and random numbers."""
    once, twice = classifier(), classifier()
    once.fit(X, LABELS, 4, 16, optimizer=Adam(CosineSchedule(0.01, 16)))
    twice.fit(X, LABELS, 2, 16, optimizer=Adam(CosineSchedule(0.01, 16)))
    twice.fit(X, LABELS, 2, 16)
    assert twice.steps == 16
    assert_same_weights(twice, snapshot(once))


def test_one_seed_one_result_and_numpy_seed_without_one() -> None:
    runs = []
    for seed in (1, 1, 2):
        model = classifier(rng=seed)
        model.fit(X, LABELS, 2, 16)
        runs.append(snapshot(model))
    assert all(np.array_equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert any(not np.array_equal(runs[0][name], runs[2][name]) for name in runs[0])
    runs = []
    for _ in range(2):
        np.random.seed(3)
        model = classifier(rng=None)
        model.fit(X, LABELS, 2, 16)
        runs.append(snapshot(model))
    assert all(np.array_equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_device_data_stay_there_and_choose_the_backend(backend: Backend) -> None:
    x, y = backend.asarray(X), backend.asarray(LABELS)
    model = classifier(rng=5)
    model.fit(x, y, 2, 16, validation_data=(x, y))
    expected = get_backend("numpy") if backend.name == "numpy" else backend
    assert model.backend == expected
    host = classifier(expected, rng=5)
    host.fit(X, LABELS, 2, 16)
    assert_same_weights(model, snapshot(host))
    Y = model.predict(x, batch_size=16)
    assert backend_of(Y) == expected
    assert_same_kind(Y, expected, "float32", (50, 3))
    on_host = model.predict(X, batch_size=16)
    assert isinstance(on_host, np.ndarray)
    np.testing.assert_array_equal(on_host, to_numpy(Y))


def test_a_setting_beats_the_arrays() -> None:
    strict = pytest.importorskip("array_api_strict")
    set_backend("numpy")
    model = classifier()
    with pytest.raises(ForeignArrayError, match="X is a Array of array_api_strict and the layer is on numpy"):
        model.fit(strict.asarray(X), LABELS)


def test_predict_in_batches_is_predict_at_once(backend: Backend) -> None:
    model = classifier(backend)
    model.fit(X, LABELS, 1, 16)
    np.testing.assert_allclose(model.predict(X, batch_size=7), model.predict(X), rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(model.predict(X.tolist()), model.predict(X))


def test_leading_axes_go_through_fit(backend: Backend) -> None:
    model = Sequential([Dense(4, activation="relu"), Dense(3)], backend=backend, rng=0)
    model.fit(X.reshape(10, 5, 4), LABELS.reshape(10, 5), 2, 4, metrics=["accuracy"])
    assert model.predict(X.reshape(10, 5, 4)).shape == (10, 5, 3)


@pytest.mark.parametrize("y", [VALUES, VALUES[:, 0], VALUES[:, 0].astype("int64"), VALUES[:, 0].tolist()])
def test_one_output_takes_one_number_each(y: Any) -> None:
    model = Sequential([Dense(1)], rng=0)
    history = model.fit(X, y, 30, 10, optimizer=SGD(0.1))
    assert history["loss"][-1] < 0.2 * history["loss"][0]


def test_sigmoid_classes_and_their_accuracy(backend: Backend) -> None:
    y = (X[:, 0] > 0).astype("int64")
    model = Sequential([Dense(1)], backend=backend, rng=0)
    history = model.fit(X, y, 30, 10, loss=SigmoidCrossEntropy(), optimizer=Adam(0.1), metrics=["accuracy"])
    assert history["accuracy"][-1] > 0.9


def test_sample_weights_leave_out_and_repeat(backend: Backend) -> None:
    keep = np.arange(50) < 30
    weighted, cut = (Sequential([Dense(3)], backend=backend, rng=0, dtype="float64") for _ in "ab")
    weighted.fit(X, LABELS, 3, 50, sample_weight=keep.astype(float), shuffle=False, optimizer="sgd")
    cut.fit(X[keep], LABELS[keep], 3, 50, shuffle=False, optimizer="sgd")
    for name, value in weighted.weights.items():
        np.testing.assert_allclose(to_numpy(value), to_numpy(cut.weights[name]), rtol=1e-12)
    whole = weighted.evaluate(X, LABELS, sample_weight=keep.astype(int), batch_size=9)
    assert whole["loss"] == pytest.approx(cut.evaluate(X[keep], LABELS[keep])["loss"], rel=1e-10)


def test_sample_weights_may_be_on_the_device(backend: Backend) -> None:
    weight = RNG.uniform(size=50).astype("float32")
    models = []
    for where in (weight, backend.asarray(weight)):
        models.append(classifier(backend))
        models[-1].fit(X, LABELS, 2, 16, sample_weight=where)
    assert_same_weights(models[1], snapshot(models[0]))


def test_sparse_inputs_are_made_dense_batch_by_batch(backend: Backend) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    thin = np.where(X > 0.3, X, 0)
    dense, model = classifier(backend), classifier(backend)
    dense.fit(thin, LABELS, 2, 16, validation_data=(thin, LABELS))
    model.fit(sparse.coo_array(thin), LABELS, 2, 16, validation_data=(sparse.csr_matrix(thin), LABELS))
    assert_same_weights(model, snapshot(dense))
    np.testing.assert_array_equal(model.predict(sparse.csr_array(thin)), dense.predict(thin))
    thin[7, 2] = np.inf
    with pytest.raises(ValueError, match=r"X\[7, 2\] is inf: training needs finite numbers"):
        model.fit(sparse.csr_array(thin), LABELS)
    with pytest.raises(ValueError, match=r"X has shape \(50, 3\) and Sequential expects \(n_samples, ..., 4\)"):
        model.predict(sparse.csr_array(thin[:, :3]))


def test_batch_norm_trains_in_the_compiled_step(backend: Backend) -> None:
    means = []
    for where in (backend, "numpy"):
        model = Sequential([Dense(4), BatchNorm(), Dense(3)], backend=where, rng=0, dtype="float64")
        # the bias before a batch norm has the gradient 0: its rounding error, which Adam would scale up
        model.fit(X, LABELS, 2, 25, optimizer="sgd")
        means.append(to_numpy(model.weights["batch_norm.running_mean"]))
    assert np.all(means[0] != 0)
    np.testing.assert_allclose(means[0], means[1], rtol=1e-10)


def test_frozen_layers_stay_in_fit(backend: Backend) -> None:
    model = classifier(backend)
    model.fit(X, LABELS, 1, 16)
    model.layers[0].trainable = False
    before = snapshot(model)
    model.fit(X, LABELS, 1, 16)
    after = snapshot(model)
    assert np.array_equal(before["dense.W"], after["dense.W"])
    assert not np.array_equal(before["dense_1.W"], after["dense_1.W"])
    model.layers[0].trainable = True
    model.fit(X, LABELS, 1, 16)
    assert not np.array_equal(to_numpy(model.weights["dense.W"]), after["dense.W"])


def test_another_optimizer_starts_afresh_and_keeps_the_weights(backend: Backend) -> None:
    model = classifier(backend)
    model.fit(X, LABELS, 1, 16)
    before = snapshot(model)
    model.fit(X, LABELS, 1, 16, optimizer=SGD(0.0))
    assert model.steps == 4
    assert_same_weights(model, before)


def test_an_optimizer_of_ones_own_serves() -> None:
    class InPlace:
        def update(self, weights: Any, grad: Any) -> Any:
            weights -= 0.1 * grad
            return weights

    own, ours = (Sequential([Dense(3)], rng=0) for _ in "ab")
    own.fit(X, LABELS, 3, 16, optimizer=InPlace())
    ours.fit(X, LABELS, 3, 16, optimizer=SGD(0.1))
    for name, value in own.weights.items():
        np.testing.assert_allclose(value, ours.weights[name], rtol=1e-5, atol=1e-6)


def test_a_learners_layer_trains_beside_ours() -> None:
    own = Doubling()
    model = Sequential([Dense(8, activation="tanh"), own, Dense(3)], rng=0)
    history = model.fit(X, LABELS, 15, 10, optimizer=SGD(0.2), metrics=["accuracy"], validation_data=(X, LABELS))
    assert history["loss"][-1] < 0.6 * history["loss"][0]
    assert own.scale[0, 0] != 2
    assert model.predict(X).shape == (50, 3)
    with pytest.raises(RuntimeError, match=r"call initialize\(optimizer\) before fit"):
        model.fit(X, LABELS, 1, optimizer="adam")
    with pytest.raises(ValueError, match="clip_norm needs all gradients at once"):
        Sequential([Dense(8), Doubling(), Dense(3)]).fit(X, LABELS, 1, optimizer=SGD(0.1, clip_norm=1.0))


# ------------------------------------------------------------------ callbacks


def test_callbacks_are_called_and_can_stop() -> None:
    events: list[Any] = []

    class Watch:
        def begin(self, run: Any) -> None:
            events.append(("begin", run.epoch))

        def epoch_end(self, run: Any) -> None:
            events.append((run.epoch, run.history["loss"][-1]))
            if run.epoch == 2:
                run.stop("enough")

        def end(self, run: Any) -> None:
            events.append(("end", run.epoch))

    assert isinstance(Watch(), Callback)
    plain: list[int] = []
    history = classifier().fit(X, LABELS, 9, callbacks=[Watch(), lambda run: plain.append(run.epoch)])
    assert [event[0] for event in events] == ["begin", 1, 2, "end"]
    assert plain == [1, 2]
    assert (history.epochs, history.stopped) == (2, "enough")
    with pytest.raises(TypeError, match="a callback is a function of the run"):
        classifier().fit(X, LABELS, 1, callbacks=[3])


def test_early_stopping_restores_the_best_weights(backend: Backend) -> None:
    """The targets of validation are such that learning makes it worse after the first epochs."""
    model = Sequential([Dense(3)], backend=backend, rng=0)
    seen: list[dict[str, Any]] = []
    history = model.fit(
        X,
        LABELS,
        50,
        10,
        optimizer=SGD(0.5),
        validation_data=(X[:10], (LABELS[:10] + 1) % 3),
        callbacks=[EarlyStopping(patience=2), lambda run: seen.append(snapshot(run.model))],
    )
    best = int(np.argmin(history["val_loss"])) + 1
    assert history.epochs == best + 3 < 50
    assert history.best_epoch == best
    assert f"(best: epoch {best})" in history.stopped
    assert_same_weights(model, seen[best - 1])


def test_early_stopping_asks_for_what_it_watches() -> None:
    with pytest.raises(ValueError, match=r"watches 'val_loss'.*pass validation_data to fit"):
        classifier().fit(X, LABELS, 2, callbacks=[EarlyStopping()])
    with pytest.raises(ValueError, match="mode must be"):
        EarlyStopping(mode="less")


def test_early_stopping_for_what_should_grow() -> None:
    stopping = EarlyStopping("accuracy", mode="max", patience=0)
    history = classifier().fit(X, LABELS, 30, optimizer=SGD(0.0), metrics=["accuracy"], callbacks=[stopping])
    assert history.epochs <= 4


# ------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x, y: (np.where(np.arange(200).reshape(50, 4) == 42, np.nan, x), y), r"X\[10, 2\] is nan: training"),
        (lambda x, y: (np.where(np.arange(200).reshape(50, 4) == 7, np.inf, x), y), r"X\[1, 3\] is inf"),
        (lambda x, y: (x, np.where(np.arange(50) == 9, np.nan, y)), r"y\[9\] is nan|label"),
        (lambda x, y: (x[:0], y[:0]), r"X has shape \(0, 4\): there are no samples"),
        (lambda x, y: (x[:, 0], y), r"expects \(n_samples, \.\.\., "),
        (lambda x, y: (x, y[:-1]), r"X has 50 samples and y has 49"),
        (lambda x, y: (x, y + 1), r"3"),
        (lambda x, y: (x, -y), r"-1|-2"),
        (lambda x, y: (x, y[:, None]), r"shape"),
    ],
)
def test_bad_data_are_refused_before_anything_is_learned(backend: Backend, change: Any, says: str) -> None:
    model = classifier(backend)
    model.fit(X, LABELS, 1, 25)
    before = snapshot(model)
    x, y = change(X, LABELS)
    with pytest.raises(ValueError, match=says):
        model.fit(x, y, 1, 25, loss=SoftmaxCrossEntropy())
    if backend.name != "numpy":
        with pytest.raises(ValueError, match=says):
            model.fit(backend.asarray(x), backend.asarray(y), 1, 25, loss=SoftmaxCrossEntropy())
    assert_same_weights(model, before)


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"epochs": 0}, ValueError, "epochs must be a positive integer"),
        ({"batch_size": 2.5}, ValueError, "batch_size must be a positive integer"),
        ({"loss": "squared"}, ValueError, "unknown loss .squared.; did you mean"),
        ({"metrics": ["iou"]}, ValueError, "unknown metric 'iou'"),
        ({"optimizer": "adma"}, ValueError, "adam"),
        ({"validation_data": (X,)}, ValueError, r"must be \(X, y\)"),
        ({"sample_weight": np.ones(49)}, ValueError, r"sample_weight has shape \(49,\) and needs \(50,\)"),
        ({"sample_weight": -np.ones(50)}, ValueError, "must not be negative"),
        ({"sample_weight": np.zeros(50)}, ValueError, "nor zero for every sample"),
    ],
)
def test_bad_settings_are_refused(kwargs: dict[str, Any], error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        classifier().fit(X, LABELS, **kwargs)


def test_a_wrong_shape_leaves_an_unbuilt_model_unbuilt() -> None:
    model = Sequential([Dense(3, (5,))], rng=0)
    with pytest.raises(ValueError, match=r"input_shape=\(5,\)"):
        model.fit(X, LABELS)
    assert model.backend is None
    assert model.input_shape is None


def test_using_a_model_too_early() -> None:
    for call in (lambda m: m.predict(X), lambda m: m.evaluate(X, LABELS)):
        with pytest.raises(RuntimeError, match="call fit or initialize first"):
            call(classifier())


def test_divergence_says_where_and_brings_the_weights_back(backend: Backend) -> None:
    model = Sequential([Dense(4), Dense(1)], backend=backend, rng=0)
    model.fit(X, VALUES, 1, 10, optimizer=SGD(1e-3))
    before = snapshot(model)
    with np.errstate(all="ignore"), pytest.raises(DivergenceError, match=r"in epoch 1, batch \d of 5 \(.*\)") as caught:
        model.fit(X, VALUES, 50, 10, optimizer=SGD(1e20))
    assert caught.value.epoch == 1
    assert 1 <= caught.value.batch <= 5
    assert "clip_norm" in str(caught.value)
    assert_same_weights(model, before)
    assert all(math.isfinite(v) for v in model.fit(X, VALUES, 1, 10, optimizer=SGD(1e-3))["loss"])


def test_an_interrupt_keeps_what_was_learned() -> None:
    model = classifier()

    def interrupt(run: Any) -> None:
        if run.epoch == 2:
            raise KeyboardInterrupt

    reference = classifier()
    reference.fit(X, LABELS, 2, 16)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, LABELS, 9, 16, callbacks=[interrupt])
    assert_same_weights(model, snapshot(reference))


def test_the_progress_bar_is_off_unless_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    classifier().fit(X, LABELS, 2)
    assert capsys.readouterr().err == ""
    classifier().fit(X, LABELS, 2, verbose=True)
    assert "loss=" in capsys.readouterr().err


def test_jax_compiles_once() -> None:
    """The second epoch, and a second call of `fit`, run what the first has compiled."""
    pytest.importorskip("jax")
    traces = []

    class Counting(Dense):
        def forward(self, params: Any, X: Any, **kwargs: Any) -> Any:
            traces.append(X.shape)
            return super().forward(params, X, **kwargs)

    model = Sequential([Counting(3)], backend="jax", rng=0)
    model.fit(X, LABELS, 2, 16)
    assert sorted(set(traces)) == [(2, 4), (16, 4)]
    assert len(traces) == 2
    model.fit(X, LABELS, 2, 16)
    assert len(traces) == 2


@pytest.mark.parametrize("uneven", [False, True])
def test_the_counts_of_steps_after_a_compiled_step(backend: Backend, uneven: bool) -> None:
    """A compiled step takes a count that all parameters share once; one that differs stays what it is."""

    def trained(where: Any) -> Sequential:
        model = Sequential([Dense(4, activation="relu"), Dense(3)], input_shape=(6,), backend=where, rng=0)
        model.initialize(Adam(0.01))
        if uneven:
            own = model.layers[0].optimizer_state["w0"]
            own["steps"] = own["steps"] + 3.0
        X = np.random.default_rng(0).normal(size=(20, 6))
        for _ in range(2):
            model.fit(X, np.arange(20) % 3, 2, 8, rng=0)
        return model

    model, reference = trained(backend), trained("numpy")
    state, expected = model.layers[0].optimizer_state, reference.layers[0].optimizer_state
    assert [float(state[key]["steps"]) for key in ("W", "w0")] == [12, 15 if uneven else 12]
    for key in ("W", "w0"):
        for slot, value in expected[key].items():
            np.testing.assert_allclose(to_numpy(state[key][slot]), value, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(
            to_numpy(getattr(model.layers[0], key)), getattr(reference.layers[0], key), atol=1e-5
        )


@pytest.mark.parametrize("target", ["labels", "one-hot"])
@pytest.mark.parametrize("weighted", [False, True])
def test_measures_do_not_depend_on_the_size_of_batches(backend: Backend, target: str, weighted: bool) -> None:
    """Also where the loss lets classes count differently, and something else is measured beside it."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 4)), rng.integers(0, 3, size=50)
    given = y if target == "labels" else np.eye(3)[y]
    weight = rng.uniform(size=50) * (rng.uniform(size=50) > 0.3) if weighted else None
    loss = SoftmaxCrossEntropy(class_weight=(1.0, 5.0, 0.1))
    with use_backend(backend):
        model = Sequential([Dense(3)], rng=0)
        model.fit(X, given, 1, loss=loss)
        kwargs: dict[str, Any] = {"loss": loss, "sample_weight": weight, "metrics": ["accuracy"]}
        found = [model.evaluate(X, given, batch_size=size, **kwargs) for size in (50, 1, 7)]
        history = model.fit(
            X, given, 1, loss=loss, validation_data=(X, given) if weight is None else (X, given, weight)
        )
    own = np.asarray([1.0, 5.0, 0.1])[y] * (1.0 if weight is None else weight)
    logits = model.predict(X).astype("float64")
    before = found[0]
    for measured in found[1:]:
        assert measured == pytest.approx(before, rel=2e-5)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(50), y]
    assert history["val_loss"][0] == pytest.approx(float(losses @ own / own.sum()), rel=2e-5)


# ------------------------------------------------------------------ what a dtype makes of data


@pytest.mark.parametrize("scale", [1e-50, 1e-30, 1.0, 1e30, 1e300])
def test_only_the_ratios_of_weights_matter(backend: Backend, scale: float) -> None:
    rng = np.random.default_rng(0)
    X, y, weight = rng.normal(size=(20, 3)), rng.integers(0, 2, size=20), rng.uniform(0.1, 2.0, size=20)
    results = []
    with use_backend(backend):
        for given in (weight, 2.0 ** round(np.log2(scale)) * weight):
            model = Sequential([Dense(2)], rng=0)
            history = model.fit(X, y, 2, 5, sample_weight=given, rng=1)
            results.append((history["loss"], model.evaluate(X, y, sample_weight=given)["loss"]))
    assert results[0] == results[1]


def test_weights_fit_into_sixteen_bits() -> None:
    X, y = np.ones((4, 2)), np.arange(4) % 2
    model = Sequential([Dense(2)], rng=0, dtype="float16")
    assert np.isfinite(model.fit(X, y, 1, sample_weight=[1e5, 2e5, 3e5, 1e5])["loss"][0])


@pytest.mark.parametrize(
    ("dtype", "value"), [("float32", 1e300), ("float32", -1e39), ("float16", 1e5), ("float16", 100_000)]
)
@pytest.mark.parametrize("placed", [False, True])
def test_what_the_dtype_cannot_hold_is_refused(backend: Backend, dtype: str, value: Any, placed: bool) -> None:
    if dtype == "float16" and not hasattr(backend.xp, "float16"):
        pytest.skip("it has no float16")
    X = np.zeros((5, 2), dtype=type(value))
    X[3, 1] = value
    given: Any = X
    if placed:
        try:
            given = backend.asarray(X)
        except TypeError as error:
            pytest.skip(str(error))
        if not np.array_equal(to_numpy(given), X):
            pytest.skip("the library narrows it by itself")
    model = Sequential([Dense(1)], backend=backend, rng=0, dtype=dtype)
    with pytest.raises(ValueError, match=rf"X\[3, 1\] is .*: {dtype} cannot hold it. Scale the data"):
        model.fit(given, np.zeros(5), 1)


def test_targets_of_sixteen_bit_models_keep_their_digits() -> None:
    """Many classes with soft targets, and numbers that float16 would round."""
    rows = np.full((4, 3000), 1 / 3000)
    model = Sequential([Dense(3000)], rng=0, dtype="float16")
    history = model.fit(np.ones((4, 2), "float16"), rows.astype("float16"), 1)
    assert np.isfinite(history["loss"][0])
    model = Sequential([Dense(1, kernel_initializer="zeros")], rng=0, dtype="float16")
    model.fit(np.zeros((4, 2)), np.zeros(4), 1)
    found = model.evaluate(np.zeros((4, 2)), np.full(4, 1000.25), metrics=["mean_absolute_error"])
    assert found["mean_absolute_error"] == pytest.approx(1000.25, abs=0.01)


def test_tensors_with_a_tape_are_data_like_others() -> None:
    torch = pytest.importorskip("torch")
    X, y = torch.randn(20, 3), torch.arange(20) % 2
    plain, taped = (Sequential([Dense(2)], backend="torch", rng=0) for _ in range(2))
    one, other = plain.fit(X, y, 2, rng=1), taped.fit(X.clone().requires_grad_(), y, 2, rng=1)
    assert one["loss"] == other["loss"]
    assert not taped.predict(X.clone().requires_grad_()).requires_grad


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"callbacks": 3}, r"callbacks must be a list, and is 3: callbacks=\[3\]"),
        ({"callbacks": EarlyStopping("loss")}, r"callbacks must be a list"),
        ({"metrics": "accuracy"}, r"metrics must be a list, and is 'accuracy': metrics=\['accuracy'\]"),
        ({"metrics": 3}, r"metrics must be a list"),
        ({"history": 3}, r"history is what an earlier fit returned, and this is 3"),
    ],
)
def test_what_is_no_list_is_refused_with_the_remedy(given: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        Sequential([Dense(1)], rng=0).fit(np.ones((4, 2)), np.ones(4), 1, **given)
