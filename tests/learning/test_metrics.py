"""What is read off a prediction, against scikit-learn on the data set as a whole, whatever the batches were."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dense_xp import (
    AUC,
    F1,
    R2,
    SGD,
    Accuracy,
    Adam,
    Dense,
    Dropout,
    EarlyStopping,
    FBeta,
    MeanAbsoluteError,
    MeanSquaredError,
    Metric,
    Precision,
    Recall,
    Sequential,
    Sigmoid,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    TopK,
    accuracy,
)
from dense_xp.backend import Backend, to_numpy
from dense_xp.learning.metrics import better, get_metric, named_metrics
from tests.comparing import assert_same_kind, name_of
from tests.training.test_sequential import Doubling

LOGITS = np.asarray([[0.1, 2.0, -1.0], [3.0, 1.0, 0.0], [0.0, 0.5, 1.0], [9.0, -9.0, 0.0]])
RNG = np.random.default_rng(5)
N = 61


# ------------------------------------------------------------------ means


@pytest.mark.parametrize(
    "target",
    [np.asarray([1, 0, 0, 0]), np.asarray([1, 0, 0, 0], "uint8"), np.eye(3)[[1, 0, 0, 0]]],
)
def test_the_share_of_right_classes(backend: Backend, target: Any) -> None:
    value = accuracy(backend.asarray(LOGITS, "float32"), backend.asarray(target))
    assert_same_kind(backend.asarray(value), backend, "float32", ())
    assert float(to_numpy(value)) == 0.75


def test_extra_axes_are_samples(backend: Backend) -> None:
    value = accuracy(backend.asarray(LOGITS.reshape(2, 2, 3)), backend.asarray(np.asarray([[1, 0], [0, 0]])))
    assert float(to_numpy(value)) == 0.75


def test_a_single_output_is_a_yes_where_it_is_positive(backend: Backend) -> None:
    logits, target = np.asarray([[0.5], [-0.5], [2.0]]), np.asarray([[1], [1], [0]])
    for y in (target, target[:, 0]):
        assert float(to_numpy(accuracy(backend.asarray(logits), backend.asarray(y)))) == pytest.approx(1 / 3)


def test_booleans_are_targets_too(backend: Backend) -> None:
    yes = accuracy(backend.asarray(np.asarray([[0.5], [-0.5]])), backend.asarray(np.asarray([[True], [True]])))
    assert float(to_numpy(yes)) == 0.5
    rows = np.eye(3)[[1, 0, 0, 0]].astype(bool)
    assert float(to_numpy(accuracy(backend.asarray(LOGITS), backend.asarray(rows)))) == 0.75


def test_shares_of_16_bits_are_32() -> None:
    value = accuracy(LOGITS[:3].astype("float16"), np.asarray([1, 0, 0]))
    assert value.dtype == "float32"
    assert float(value) == pytest.approx(2 / 3, rel=1e-7)


@pytest.mark.parametrize("shape", [(3,), (4, 1), (4, 2), (2, 2)])
@pytest.mark.parametrize("metric", [accuracy, TopK(2), F1(), AUC(), R2()], ids=name_of)
def test_shapes_that_do_not_fit_are_refused(metric: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"the prediction has shape \(4, 3\) and the target"):
        metric(LOGITS, np.zeros(shape, "int64"))


def test_labels_are_not_taken_for_answers() -> None:
    for metric in (F1(multilabel=True), AUC(multilabel=True), R2()):
        with pytest.raises(ValueError, match=r"needs a target"):
            metric(LOGITS, np.asarray([1, 0, 0, 0]))
    with pytest.raises(ValueError, match="TopK needs one output for each class"):
        TopK(1)(LOGITS[:, :1], np.asarray([1, 0, 0, 0]))


# ------------------------------------------------------------------ against scikit-learn


def scores(*shape: int, ties: bool) -> Any:
    drawn = np.random.default_rng(2).normal(size=shape) * 2
    return np.round(drawn) if ties else drawn


def sk(name: str, **options: Any) -> Callable[..., float]:
    metrics = pytest.importorskip("sklearn.metrics")
    return lambda *args, **more: float(getattr(metrics, name)(*args, **options, **more))


def softmax(z: Any) -> Any:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def case(kind: str, ties: bool) -> tuple[Any, Any]:
    """Return predictions and targets of a kind; of five classes the fourth neither occurs nor is predicted."""
    rng = np.random.default_rng(3)
    if kind == "binary":
        return scores(N, 1, ties=ties), rng.integers(0, 2, size=N)
    if kind == "labels":
        z = scores(N, 5, ties=ties)
        z[:, 3] = -50.0
        return z, rng.choice([0, 1, 2, 4], size=N)
    if kind == "multilabel":
        z, y = scores(N, 4, ties=ties), rng.integers(0, 2, size=(N, 4))
        z[:, 1], y[:, 1] = -1.0, 0
        return z, y
    y = rng.normal(size=(N, 3)) * [1, 10, 0.1] + [1e3, 0, -5]
    return y + rng.normal(size=(N, 3)) * [0.7, 2, 0.05], y


def over_batches(
    backend: Backend, metric: Metric, size: int, prediction: Any, target: Any, weight: Any, dtype: str = "float64"
) -> float:
    """Return the value from batches, compiled where that is possible, of data that must not be written into."""
    statistics = backend.compile(metric.statistics)
    kept = []
    for start in range(0, N, size):
        rows = slice(start, start + size)
        x, y = backend.asarray(prediction[rows], dtype), backend.asarray(target[rows])
        kept.append(statistics(x, y, None if weight is None else backend.asarray(weight[rows], dtype)))
        assert_same_kind(kept[-1], backend, dtype, tuple(kept[-1].shape))
    return metric.value(backend.joined(kept))


CASES: list[tuple[Metric, str, Callable[[Any, Any, Any], float]]] = []
for _cls, _name in ((F1, "f1_score"), (Precision, "precision_score"), (Recall, "recall_score")):
    for _average in ("macro", "micro", "weighted") if _cls is F1 else ("macro",):
        CASES += [
            (_cls(_average), "labels", lambda z, y, w, n=_name, a=_average: sk(n, average=a, zero_division=0)(
                y, z.argmax(axis=1), sample_weight=w)),
            (_cls(_average, multilabel=True), "multilabel", lambda z, y, w, n=_name, a=_average: sk(
                n, average=a, zero_division=0)(y, z > 0, sample_weight=w)),
        ]  # fmt: skip
CASES += [
    *(
        (
            FBeta(beta, average),
            "labels",
            lambda z, y, w, b=beta, a=average: sk("fbeta_score", beta=b, average=a, zero_division=0)(
                y, z.argmax(axis=1), sample_weight=w
            ),
        )
        for beta, average in ((2.0, "macro"), (0.5, "weighted"), (3, "micro"))
    ),
    (FBeta(2.0), "binary", lambda z, y, w: sk("fbeta_score", beta=2.0)(y, z > 0, sample_weight=w)),
    (F1(), "binary", lambda z, y, w: sk("f1_score")(y, z > 0, sample_weight=w)),
    (F1(threshold=0.7), "binary", lambda z, y, w: sk("f1_score")(y, z > 0.7, sample_weight=w)),
    (Precision(), "binary", lambda z, y, w: sk("precision_score")(y, z > 0, sample_weight=w)),
    (Recall(), "binary", lambda z, y, w: sk("recall_score")(y, z > 0, sample_weight=w)),
    (AUC(), "binary", lambda z, y, w: sk("roc_auc_score")(y, z, sample_weight=w)),
    (
        AUC(),
        "labels",
        lambda z, y, w: np.mean([sk("roc_auc_score")(y == k, softmax(z)[:, k], sample_weight=w) for k in np.unique(y)]),
    ),
    (
        AUC(multilabel=True),
        "multilabel",
        lambda z, y, w: np.mean([sk("roc_auc_score")(y[:, k], z[:, k], sample_weight=w) for k in (0, 2, 3)]),
    ),
    (R2(), "values", lambda z, y, w: sk("r2_score")(y, z, sample_weight=w)),
]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("metric", "kind", "reference"), CASES, ids=lambda x: repr(x) if isinstance(x, Metric) else "")
def test_the_whole_is_what_scikit_learn_says(
    backend: Backend, metric: Metric, kind: str, reference: Any, ties: bool
) -> None:
    prediction, target = case(kind, ties)
    if ties and kind == "labels" and isinstance(metric, AUC):
        prediction[:, 1:] = 0.0  # equal sums in equal order: the softmax has ties in every library
    for weight in (None, np.random.default_rng(1).uniform(0.1, 3.0, size=N) * (np.arange(N) % 7 > 0)):
        expected = reference(prediction, target, weight)
        assert 0.0 < expected < 1.0
        for size in (N, 20, 7):
            found = over_batches(backend, metric, size, prediction, target, weight)
            assert found == pytest.approx(expected, rel=1e-12), size
    by_hand = metric(backend.asarray(prediction, "float64"), backend.asarray(target))
    assert by_hand == pytest.approx(reference(prediction, target, None), rel=1e-12)


def test_one_hot_rows_and_extra_axes_are_the_same(backend: Backend) -> None:
    prediction, target = case("labels", ties=False)
    for metric in (F1(), AUC()):
        expected = metric(prediction, target)
        assert over_batches(backend, metric, 7, prediction, np.eye(5)[target], None) == pytest.approx(expected)
        spread = metric(
            backend.asarray(prediction[:60].reshape(5, 12, 5), "float64"), backend.asarray(target[:60].reshape(5, 12))
        )
        assert spread == pytest.approx(metric(prediction[:60], target[:60]))


def test_auc_of_the_outputs_themselves() -> None:
    """With `logits=False` several outputs are ranked as they are, and not by their softmax."""
    roc = sk("roc_auc_score", multi_class="ovr", average="macro")
    p, y = softmax(scores(N, 3, ties=False)), RNG.integers(0, 3, size=N)
    assert AUC(logits=False)(p, y) == pytest.approx(roc(y, p), rel=1e-12)
    assert AUC()(np.log(p), y) == pytest.approx(roc(y, p), rel=1e-12)
    assert AUC()(p, y) != pytest.approx(roc(y, p), rel=1e-12)


@pytest.mark.parametrize("k", [1, 2, 4, 5, 9])
@pytest.mark.parametrize("ties", [False, True])
def test_top_k(backend: Backend, k: int, ties: bool) -> None:
    prediction, target = scores(N, 5, ties=ties), RNG.integers(0, 5, size=N)
    weight = RNG.uniform(size=N)
    reference = sk("top_k_accuracy_score", k=min(k, 4), labels=range(5))
    for w in (None, weight):
        expected = 1.0 if k >= 5 else reference(target, prediction, sample_weight=w)
        on_device = None if w is None else backend.asarray(w, "float64")
        for y in (target, np.eye(5)[target]):
            found = TopK(k)(backend.asarray(prediction, "float64"), backend.asarray(y), on_device)
            assert_same_kind(backend.asarray(found), backend, "float64", ())
            assert float(to_numpy(found)) == pytest.approx(expected, rel=1e-12)


def test_what_is_not_defined() -> None:
    yes = np.ones(3, "int64")
    assert np.isnan(AUC()(np.asarray([[1.0], [2.0], [3.0]]), yes))
    assert F1()(-np.ones((3, 1)), 0 * yes) == 0.0
    assert F1("weighted", multilabel=True)(-np.ones((3, 2)), np.zeros((3, 2))) == 0.0
    assert (R2()(np.full((3, 1), 0.1), np.full((3, 1), 0.1)), R2()(np.ones((3, 1)), np.full((3, 1), 0.1))) == (1.0, 0.0)


def test_r2_far_from_zero(backend: Backend) -> None:
    """In float32, around a mean of ten thousand, where a difference of large sums would have no digit left."""
    y = (1e4 + RNG.normal(size=(N, 1))).astype("float32")
    prediction = (y + 0.3 * RNG.normal(size=(N, 1))).astype("float32")
    expected = sk("r2_score")(y.astype("float64"), prediction.astype("float64"))
    for size in (N, 7):
        assert over_batches(backend, R2(), size, prediction, y, None, "float32") == pytest.approx(expected, rel=1e-5)
    constant = np.full((N, 1), 0.1, "float32")
    assert over_batches(backend, R2(), 7, constant, constant, None, "float32") == 1.0


def test_a_batch_of_weight_zero_adds_nothing() -> None:
    for metric, kind in ((F1(), "labels"), (AUC(), "binary"), (R2(), "values")):
        prediction, target = case(kind, ties=False)
        weight = (np.arange(N) >= 20).astype(float)
        expected = metric(prediction[20:], target[20:])
        rows = [
            metric.statistics(prediction[part], target[part], weight[part]) for part in (slice(20), slice(20, None))
        ]
        assert metric.value(np.concatenate(rows)) == pytest.approx(expected, rel=1e-12)
    assert accuracy(LOGITS, np.asarray([1, 0, 0, 0]), np.zeros(4)) == 0.0


# ------------------------------------------------------------------ in training

X = RNG.normal(size=(50, 4))
LABELS = (X[:, 0] + RNG.normal(size=50) > 0).astype("int64") + (X[:, 2] > 1)
WEIGHTS = RNG.uniform(0.1, 2.0, size=50)
WEIGHT_OF_61 = np.random.default_rng(1).uniform(0.1, 3.0, size=N) * (np.arange(N) % 7 > 0)


class FirstOutput(Metric):
    """Keeps a view of the prediction, which the step is going to overwrite."""

    name = "first"

    def statistics(self, prediction: Any, target: Any, weight: Any = None) -> Any:
        return prediction[:, :1]

    def value(self, statistics: Any) -> float:
        return float(statistics.sum())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_every_step_measures_the_epoch_as_a_whole(backend: Backend, own: bool, weighted: bool) -> None:
    """With a learning rate of zero an epoch in shuffled batches is the data set, and the last batch is smaller."""
    if own and backend.name != "numpy":
        pytest.skip("the learner's layer is of NumPy")
    layers = [Dense(6, activation="relu"), Doubling(), Dense(3)] if own else [Dense(6, activation="relu"), Dense(3)]
    model = Sequential(layers, backend=backend, rng=0, dtype="float32" if own else "float64")
    weight = WEIGHTS if weighted else None
    metrics = ["accuracy", "top_2", "f1", F1("micro", name="micro"), "auc", FirstOutput()]
    history = model.fit(
        X,
        LABELS,
        1,
        16,
        optimizer=SGD(0.0),
        metrics=metrics,
        sample_weight=weight,
        validation_data=(X, LABELS, weight) if weighted else (X, LABELS),
    )
    z = np.asarray(model.predict(X), "float64")
    expected = {
        "accuracy": sk("accuracy_score")(LABELS, z.argmax(axis=1), sample_weight=weight),
        "top_2": sk("top_k_accuracy_score", k=2)(LABELS, z, sample_weight=weight),
        "f1": sk("f1_score", average="macro")(LABELS, z.argmax(axis=1), sample_weight=weight),
        "micro": sk("f1_score", average="micro")(LABELS, z.argmax(axis=1), sample_weight=weight),
        "auc": np.mean(
            [sk("roc_auc_score")(k == LABELS, softmax(z)[:, k], sample_weight=weight) for k in range(3)]
        ),
        "first": z[:, 0].sum(),
    }  # fmt: skip
    evaluated = model.evaluate(X, LABELS, metrics=metrics, sample_weight=weight, batch_size=7)
    assert list(evaluated) == ["loss", *expected]
    for name, value in expected.items():
        for found in (history[name][0], history[f"val_{name}"][0], evaluated[name]):
            assert found == pytest.approx(value, rel=1e-5 if own else 1e-10), name


def test_measures_of_a_regression(backend: Backend) -> None:
    y = X[:, :2] @ np.asarray([[1.0, 2.0], [3.0, -1.0]]) + RNG.normal(size=(50, 2))
    model = Sequential([Dense(2)], backend=backend, rng=0, dtype="float64")
    metrics = ["r2", "mean_absolute_error", MeanSquaredError()]
    history = model.fit(X, y, 3, 16, metrics=metrics, validation_data=(X, y, WEIGHTS), optimizer=SGD(0.1))
    prediction = np.asarray(model.predict(X))
    for name, reference in (
        ("r2", "r2_score"),
        ("mean_absolute_error", "mean_absolute_error"),
        ("MeanSquaredError", "mean_squared_error"),
    ):
        value = sk(reference)(y, prediction, sample_weight=WEIGHTS)
        assert history[f"val_{name}"][-1] == pytest.approx(value, rel=1e-10), name


def test_yes_and_no_in_training(backend: Backend) -> None:
    y = (X[:, 0] > 0).astype("int64")
    model = Sequential([Dense(1)], backend=backend, rng=0)
    metrics = ["accuracy", "f1", "precision", "recall", "auc"]
    model.fit(X, y, 2, 16, loss=SigmoidCrossEntropy(), optimizer="adam", metrics=metrics)
    z = np.asarray(model.predict(X))
    found = model.evaluate(X, y, loss=SigmoidCrossEntropy(), metrics=metrics, batch_size=9)
    for name in ("accuracy", "f1", "precision", "recall"):
        assert found[name] == pytest.approx(sk(f"{name}_score")(y, z > 0), rel=1e-6)
    assert found["auc"] == pytest.approx(sk("roc_auc_score")(y, z), rel=1e-12)


def test_a_measure_that_is_not_defined_is_no_divergence() -> None:
    model = Sequential([Dense(1)], rng=0)
    history = model.fit(X, np.ones(50), 2, 16, metrics=["auc"], loss=SigmoidCrossEntropy())
    assert np.isnan(history["auc"]).all()
    assert history.epochs == 2


def test_a_plain_function_is_averaged_by_weight() -> None:
    def spread(prediction: Any, target: Any) -> Any:
        return (prediction[..., 0] - target[..., 0]).max()

    model = Sequential([Dense(1)], rng=0, dtype="float64")
    model.fit(X, X[:, 0], 1, 16)
    for weight in (None, WEIGHTS):
        w = np.ones(50) if weight is None else weight
        found = model.evaluate(X, X[:, 0], metrics=[spread], sample_weight=weight, batch_size=20)["spread"]
        off = np.asarray(model.predict(X))[:, 0] - X[:, 0]
        parts = [slice(0, 20), slice(20, 40), slice(40, 50)]
        assert found == pytest.approx(sum(off[rows].max() * w[rows].sum() for rows in parts) / w.sum(), rel=1e-12)


# ------------------------------------------------------------------ by name


def test_metrics_by_name_and_by_function() -> None:
    assert get_metric("accuracy") == ("accuracy", accuracy)
    assert get_metric(accuracy) == ("accuracy", accuracy)
    assert get_metric("top_12") == ("top_12", TopK(12))
    assert get_metric("top_5") == ("top_5", TopK())
    assert get_metric(F1("micro", name="micro")) == ("micro", F1("micro", name="micro"))
    assert get_metric("mean_absolute_error") == ("mean_absolute_error", MeanAbsoluteError())
    assert get_metric(MeanAbsoluteError())[0] == "MeanAbsoluteError"
    assert get_metric(np.maximum)[1](2, 3, None) == 3  # type: ignore[operator]
    assert get_metric("f2") == ("f2", FBeta(2.0))
    assert get_metric("f0.5") == ("f0.5", FBeta(0.5))
    assert get_metric("f1") == ("f1", F1())
    with pytest.raises(ValueError, match=r"unknown metric 'recal'; did you mean .recall.\? Known: accuracy, top_5"):
        get_metric("recal")
    with pytest.raises(TypeError, match=r"F1 is a class: pass a metric, F1\(\)"):
        get_metric(F1)
    with pytest.raises(TypeError, match="a metric is a name, a Metric or a function"):
        get_metric(3)  # type: ignore[arg-type]
    for specs in (["f1", F1("micro")], [lambda p, t: p, lambda p, t: t]):
        with pytest.raises(ValueError, match="give one another name"):
            named_metrics(specs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: F1("mean"),
        lambda: TopK(0),
        lambda: TopK(True),
        lambda: TopK(2.0),
        lambda: FBeta(0.0),
        lambda: FBeta(1.0, "mean"),
        lambda: Accuracy(ignore_index=0.5),
        lambda: F1(ignore_index=True),
    ],
)  # type: ignore[arg-type]
def test_arguments_out_of_range(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()


def test_a_metric_that_lacks_a_half() -> None:
    with pytest.raises(NotImplementedError, match="Metric has no statistics"):
        Metric()(LOGITS, LOGITS)
    with pytest.raises(NotImplementedError, match="Metric has no value"):
        Metric().value(LOGITS)


def test_jax_does_not_compile_a_metric_anew() -> None:
    """Two metrics that say the same are the same to the compiled step."""
    pytest.importorskip("jax")
    traces = []

    class Counting(Dense):
        def forward(self, params: Any, X: Any, **kwargs: Any) -> Any:
            traces.append(X.shape)
            return super().forward(params, X, **kwargs)

    model = Sequential([Counting(3)], backend="jax", rng=0)
    for _ in range(2):
        model.fit(X, LABELS, 1, 25, metrics=[F1("micro"), AUC()])
    assert len(traces) == 1


# ------------------------------------------------------------------ one value for each class


@pytest.mark.parametrize("kind", ["labels", "multilabel"])
@pytest.mark.parametrize(
    ("make", "name", "options"),
    [
        (F1, "f1_score", {}),
        (Precision, "precision_score", {}),
        (Recall, "recall_score", {}),
        (lambda *args, **kwargs: FBeta(0.5, *args, **kwargs), "fbeta_score", {"beta": 0.5}),
    ],
)
def test_one_value_for_each_class(backend: Backend, make: Any, name: str, options: Any, kind: str) -> None:
    reference = getattr(pytest.importorskip("sklearn.metrics"), name)
    prediction, target = case(kind, ties=False)
    answers = prediction > 0 if kind == "multilabel" else prediction.argmax(axis=1)
    labels = None if kind == "multilabel" else range(5)
    for weight in (None, WEIGHT_OF_61):
        expected = reference(
            target, answers, average=None, labels=labels, zero_division=0, sample_weight=weight, **options
        )
        for size in (N, 7):
            metric = make(None, multilabel=kind == "multilabel")
            found = over_batches(backend, metric, size, prediction, target, weight)
            np.testing.assert_allclose(found, expected, rtol=1e-12)
    prediction[0, 0] = np.nan
    assert np.isnan(over_batches(backend, metric, 7, prediction, target, None)).all()


def test_each_class_is_a_column_of_the_history(backend: Backend) -> None:
    model = Sequential([Dense(3)], backend=backend, rng=0, dtype="float64")
    metrics = [F1(None), Recall("micro")]
    stopping = EarlyStopping("val_f1_2", patience=1, min_delta=1.0)
    history = model.fit(
        X, LABELS, 9, 16, metrics=metrics, validation_data=(X, LABELS), optimizer=SGD(0.1), callbacks=[stopping]
    )
    assert "val_f1_2 has not improved" in history.stopped
    found = model.evaluate(X, LABELS, metrics=metrics, batch_size=9)
    assert list(found) == ["loss", "f1_0", "f1_1", "f1_2", "recall"]
    assert list(history) == [*found, *(f"val_{name}" for name in found)]
    reference = pytest.importorskip("sklearn.metrics").f1_score
    expected = reference(LABELS, np.asarray(model.predict(X)).argmax(axis=1), average=None, zero_division=0)
    np.testing.assert_allclose([found[f"f1_{k}"] for k in range(3)], expected, rtol=1e-12)
    again = model.fit(X, LABELS, 1, 16, metrics=metrics, validation_data=(X, LABELS), history=history)
    assert len(again["f1_0"]) == history.epochs + 1
    assert better("val_f1_2", named_metrics(metrics)) == "max"


# ------------------------------------------------------------------ labels that are left out

LEFT_OUT = [
    Accuracy(ignore_index=-100),
    TopK(2, ignore_index=-100),
    F1(ignore_index=-100),
    F1(None, ignore_index=-100),
    FBeta(2.0, "micro", ignore_index=-100),
    Precision("weighted", ignore_index=-100),
    Recall(ignore_index=-100),
    AUC(ignore_index=-100),
]


@pytest.mark.parametrize("metric", LEFT_OUT, ids=repr)
@pytest.mark.parametrize("kind", ["labels", "binary"])
@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_left_out_is_as_if_it_were_not_there(backend: Backend, metric: Any, kind: str, weighted: bool) -> None:
    if isinstance(metric, TopK) and kind == "binary":
        pytest.skip("a single output has no guesses")
    prediction, target = case(kind, ties=False)
    out = np.arange(N) % 4 == 1
    prediction[out & (np.arange(N) > 40)] = np.nan  # what is said of them does not matter
    target = np.where(out, -100, target)
    weight = WEIGHT_OF_61 if weighted else None
    kept = dataclasses.replace(metric, ignore_index=None)
    rows = np.flatnonzero(~out)
    expected = kept(prediction[rows], target[rows], None if weight is None else weight[rows])
    for size in (N, 7):
        found = over_batches(backend, metric, size, prediction, target, weight)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    with np.errstate(all="raise"):
        by_hand = metric(backend.asarray(prediction, "float64"), backend.asarray(target))
    np.testing.assert_allclose(float_of(by_hand), kept(prediction[rows], target[rows]), rtol=1e-12)


def float_of(value: Any) -> Any:
    return value if isinstance(value, float | np.ndarray) else float(to_numpy(value))


def test_in_training_what_is_left_out_does_not_depend_on_the_batches(backend: Backend) -> None:
    labels = np.where(np.arange(50) % 3 == 0, -1, LABELS)
    kept = labels >= 0
    model = Sequential([Dense(3)], backend=backend, rng=0, dtype="float64")
    metrics = [Accuracy(ignore_index=-1), TopK(2, ignore_index=-1), F1(ignore_index=-1)]
    loss = SoftmaxCrossEntropy(ignore_index=-1)
    history = model.fit(X, labels, 1, 16, loss=loss, metrics=metrics, optimizer=SGD(0.0))
    expected = model.evaluate(X[kept], LABELS[kept], metrics=["accuracy", "top_2", "f1"])
    for size in (1, 7, 50):
        found = model.evaluate(X, labels, loss=loss, metrics=metrics, batch_size=size)
        assert found == pytest.approx(expected, rel=1e-9)
    assert {name: column[0] for name, column in history.items()} == pytest.approx(expected, rel=1e-9)


def test_of_several_labels_each_may_be_left_out(backend: Backend) -> None:
    """torchmetrics' rule: a question without an answer counts nowhere, and the others of that sample do."""
    prediction, target = case("multilabel", ties=False)
    out = np.random.default_rng(4).uniform(size=target.shape) < 0.3
    for metric, name in ((F1, "f1_score"), (Recall, "recall_score")):
        found = metric(None, multilabel=True, ignore_index=-1)(
            backend.asarray(prediction, "float64"), backend.asarray(np.where(out, -1, target))
        )
        columns = zip(prediction.T, target.T, ~out.T, strict=True)
        expected = [sk(name, zero_division=0)(y[kept], z[kept] > 0) for z, y, kept in columns]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    with pytest.raises(ValueError, match=r"^AUC leaves out whole samples"):
        AUC(multilabel=True, ignore_index=-1)


def test_one_hot_rows_have_no_label_to_leave_out() -> None:
    prediction, target = case("labels", ties=False)
    for metric in (Accuracy(ignore_index=0), F1(ignore_index=0), TopK(2, ignore_index=0)):
        plain = dataclasses.replace(metric, ignore_index=None)
        assert metric(prediction, np.eye(5)[target]) == plain(prediction, np.eye(5)[target])
        assert metric(prediction, target) != plain(prediction, target)


# ------------------------------------------------------------------ what is not known, what weighs nothing

MEASURES = [accuracy, Accuracy(0.5), TopK(2), F1(), F1("micro"), Precision("weighted"), Recall(), AUC(), R2()]


@pytest.mark.parametrize("measure", MEASURES, ids=name_of)
def test_a_prediction_that_is_nan_measures_nan(backend: Backend, measure: Any) -> None:
    put = backend.asarray
    prediction = RNG.normal(size=(6, 1 if measure in (R2(), Accuracy(0.5)) else 3))
    target = prediction if isinstance(measure, R2) else np.arange(6) % max(2, prediction.shape[1])
    assert not np.isnan(float(measure(put(prediction, "float32"), put(target))))
    prediction = prediction.copy()
    prediction[2, 0] = np.nan
    assert np.isnan(float(measure(put(prediction, "float32"), put(target))))
    if measure is accuracy:  # what weighs nothing is not asked
        assert float(measure(put(prediction, "float32"), put(target), put(np.arange(6) != 2, "float32"))) >= 0.0


def test_several_labels_and_regressions_of_nan() -> None:
    logits, labels = RNG.normal(size=(6, 3)), RNG.integers(0, 2, size=(6, 3))
    logits[1, 1] = np.nan
    for metric in (F1(multilabel=True), Recall("micro", multilabel=True), AUC(multilabel=True), R2()):
        assert np.isnan(metric(logits, labels))
    assert np.isnan(R2()(np.asarray([[np.nan], [1.0]]), np.asarray([[1.0], [1.0]])))  # of a constant


@pytest.mark.parametrize("metric", [F1(), Precision(), Recall()], ids=repr)
def test_a_class_whose_samples_weigh_nothing_is_still_a_class(backend: Backend, metric: Any) -> None:
    target, guess, weight = np.asarray([0, 1, 2, 2]), np.asarray([0, 1, 2, 1]), np.asarray([1.0, 1.0, 0.0, 0.0])
    logits = np.eye(3)[guess]
    found = metric(backend.asarray(logits), backend.asarray(target), backend.asarray(weight))
    reference = sk(f"{metric.name}_score", average="macro", zero_division=0.0)
    assert found == pytest.approx(reference(target, guess, sample_weight=weight), rel=1e-6)
    assert found == pytest.approx(2 / 3)


def test_rounding_breaks_no_tie(backend: Backend) -> None:
    """The softmax of the same logits in another order is the same number by its formula."""
    rows = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
    logits = np.concatenate([rows, rows[:, [0, 1, 3, 4, 2]], rows[:, [0, 1, 4, 2, 3]]])
    assert AUC()(backend.asarray(logits), backend.asarray(np.repeat([0, 1, 1], 40))) == 0.5


def test_confident_scores_are_told_apart() -> None:
    """Next to 1 a probability has no digits left, and its logarithm has."""
    logits = np.asarray([[50.0, 0.0], [60.0, 0.0], [70.0, 0.0], [40.0, 0.0]])
    assert AUC()(logits, np.asarray([1, 0, 0, 1])) == 1.0


@pytest.mark.parametrize("last", [Dense(1, activation="sigmoid"), Sequential([Dense(1), Sigmoid()])], ids=repr)
def test_a_model_that_ends_in_a_sigmoid_says_yes_from_one_half(backend: Backend, last: Any) -> None:
    y = (X[:, 0] > 0).astype("int64")
    model = Sequential([last], backend=backend, rng=0)
    metrics = ["accuracy", "f1", Recall(name="at_zero", threshold=0.0)]
    history = model.fit(X, y, 20, 16, loss="mean_squared_error", optimizer=Adam(0.05), metrics=metrics)
    found, p = model.evaluate(X, y, metrics=metrics), to_numpy(model.predict(X))
    assert found["accuracy"] == pytest.approx(sk("accuracy_score")(y, p > 0.5), rel=1e-6)
    assert found["f1"] == pytest.approx(sk("f1_score")(y, p > 0.5), rel=1e-6)
    assert found["at_zero"] == 1.0
    assert history["accuracy"][-1] > 0.8


def test_a_model_that_ends_in_a_softmax_has_probabilities() -> None:
    y = RNG.integers(0, 3, size=len(X))
    model = Sequential([Dense(3, activation="softmax")], rng=0)
    model.fit(X, np.eye(3)[y], 1, loss="mean_squared_error")
    found = model.evaluate(X, np.eye(3)[y], loss="mean_squared_error", metrics=["auc", AUC(logits=True, name="twice")])
    roc = sk("roc_auc_score", multi_class="ovr", average="macro")
    p = model.predict(X).astype("float64")
    assert found["auc"] == pytest.approx(roc(y, p / p.sum(axis=1, keepdims=True)), rel=1e-6)


def test_each_measure_says_what_is_good() -> None:
    named = named_metrics(["accuracy", "top_2", "f1", "auc", "r2", "mean_absolute_error", abs])
    assert [better(name, named) for name in ("loss", "val_loss", "val_r2", "top_2", "f1", "auc")] == [
        "min", "min", "max", "max", "max", "max",
    ]  # fmt: skip
    assert better("val_mean_absolute_error", named) == "min"
    assert better("abs", named) == ""


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(class_weight=[1, 5, 0.1]), SoftmaxCrossEntropy(ignore_index=2)])
def test_a_loss_that_weighs_samples_is_a_metric_whatever_the_batches(
    backend: Backend, loss: SoftmaxCrossEntropy
) -> None:
    rng = np.random.default_rng(0)
    X, y, weight = rng.normal(size=(31, 4)).astype("float32"), rng.integers(0, 3, 31), rng.random(31)
    net = Sequential([Dense(3)], input_shape=(4,), backend=backend, rng=0)
    net.initialize("adam")
    whole = net.evaluate(X, y, loss=loss, sample_weight=weight)["loss"]
    for size in (1, 7, 31):
        found = net.evaluate(X, y, loss=loss, sample_weight=weight, batch_size=size, metrics=[loss])
        assert found["SoftmaxCrossEntropy"] == pytest.approx(whole, rel=1e-5)
    history = net.fit(X, y, 1, 7, loss=loss, sample_weight=weight, metrics=[loss])
    assert history["SoftmaxCrossEntropy"] == pytest.approx(history["loss"], rel=1e-5)


def test_dropout_behind_a_sigmoid_changes_nothing_of_what_a_yes_is() -> None:
    inner = Sequential([Dense(1, activation="sigmoid")])
    net = Sequential([inner, Dropout(0.5)], input_shape=(2,), rng=0)
    net.initialize()
    net.params = {**net.params, "sequential": {"dense": {"W": np.asarray([[0.0], [0.0]]), "w0": np.asarray([[-1.0]])}}}
    assert net.evaluate(np.ones((4, 2)), np.zeros(4), metrics=["accuracy"])["accuracy"] == 1.0


@pytest.mark.parametrize("name", [3.5, [], np.ones(2)])
def test_the_name_of_a_metric_is_a_text(name: Any) -> None:
    with pytest.raises(TypeError, match="the name of a metric is a text"):
        named_metrics([Accuracy(name=name)])
