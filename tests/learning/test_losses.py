"""Losses: torch's own values and gradients, the weights of samples and classes, and targets that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dense_xp import (
    SGD,
    Adam,
    Dense,
    Gamma,
    GaussianNLL,
    Huber,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    Poisson,
    Quantile,
    Sequential,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    Tweedie,
)
from dense_xp.backend import Backend, to_numpy
from dense_xp.learning.named_losses import LOSSES
from tests.comparing import assert_close, assert_same_kind
from tests.gradients import directional_error

RNG = np.random.default_rng(0)
LOGITS = 2 * RNG.normal(size=(7, 4))
VALUES = RNG.normal(size=(7, 4))
LABELS = RNG.integers(0, 4, 7)
PROBABILITIES = RNG.dirichlet(np.ones(4), 7)
YES = RNG.integers(0, 2, (7, 4)).astype("float64")
COUNTS = RNG.integers(0, 5, (7, 4)).astype("float64")
AMOUNTS = RNG.gamma(2.0, size=(7, 4))
PAIRS = VALUES[:, :2]
CLASS_WEIGHT = [0.5, 2.0, 1.0, 3.0]
WEIGHT = RNG.uniform(0.1, 2.0, 7)

CASES: list[tuple[Loss, Any, Any]] = [
    (MeanSquaredError(), VALUES, lambda f, p, t: f.mse_loss(p, t)),
    (MeanAbsoluteError(), VALUES, lambda f, p, t: f.l1_loss(p, t)),
    (Huber(), VALUES, lambda f, p, t: f.huber_loss(p, t)),
    (Huber(0.3), VALUES, lambda f, p, t: f.huber_loss(p, t, delta=0.3)),
    (SoftmaxCrossEntropy(), LABELS, lambda f, p, t: f.cross_entropy(p, t)),
    (SoftmaxCrossEntropy(0.2), LABELS, lambda f, p, t: f.cross_entropy(p, t, label_smoothing=0.2)),
    (
        SoftmaxCrossEntropy(class_weight=CLASS_WEIGHT),
        LABELS,
        lambda f, p, t: f.cross_entropy(p, t, weight=p.new_tensor(CLASS_WEIGHT)),
    ),
    (
        SoftmaxCrossEntropy(0.2, CLASS_WEIGHT),
        LABELS,
        lambda f, p, t: f.cross_entropy(p, t, weight=p.new_tensor(CLASS_WEIGHT), label_smoothing=0.2),
    ),
    (SoftmaxCrossEntropy(), PROBABILITIES, lambda f, p, t: f.cross_entropy(p, t)),
    (SoftmaxCrossEntropy(0.2), PROBABILITIES, lambda f, p, t: f.cross_entropy(p, t, label_smoothing=0.2)),
    (SigmoidCrossEntropy(), YES, lambda f, p, t: f.binary_cross_entropy_with_logits(p, t)),
    (SigmoidCrossEntropy(), PROBABILITIES, lambda f, p, t: f.binary_cross_entropy_with_logits(p, t)),
    (
        SigmoidCrossEntropy(2.5),
        YES,
        lambda f, p, t: f.binary_cross_entropy_with_logits(p, t, pos_weight=p.new_tensor([2.5])),
    ),
    (Quantile(), VALUES, lambda f, p, t: f.l1_loss(p, t) / 2),
    (
        Quantile([0.1, 0.7]),
        PAIRS,
        lambda f, p, t: sum(
            (q * f.relu(t - z) + (1 - q) * f.relu(z - t)).mean() / 2 for q, z in ((0.1, p[:, ::2]), (0.7, p[:, 1::2]))
        ),
    ),
    (Poisson(), COUNTS, lambda f, p, t: f.poisson_nll_loss(p, t)),
    (Gamma(), AMOUNTS, lambda f, p, t: (p + t / p.exp()).mean()),
    (Tweedie(), COUNTS, lambda f, p, t: 2 * (p.exp().sqrt() + t / p.exp().sqrt()).mean()),
    (GaussianNLL(), PAIRS, lambda f, p, t: f.gaussian_nll_loss(p[:, ::2], t, p[:, 1::2].exp())),
]


def name_of(value: Any) -> str | None:
    return repr(value) if isinstance(value, Loss) else None


@pytest.mark.parametrize(("loss", "target", "theirs"), CASES, ids=name_of)
def test_value_and_gradient_are_those_of_torch(backend: Backend, loss: Loss, target: Any, theirs: Any) -> None:
    torch = pytest.importorskip("torch")
    prediction = torch.tensor(LOGITS, requires_grad=True)
    expected = theirs(torch.nn.functional, prediction, torch.tensor(target))
    expected.backward()
    value, grad = loss.value_and_grad(backend.asarray(LOGITS), backend.asarray(target))
    assert_close(backend.asarray(value), expected.item(), backend)
    assert_close(grad, prediction.grad.numpy(), backend)
    assert_close(backend.asarray(loss(backend.asarray(LOGITS), backend.asarray(target))), expected.item(), backend)
    assert_close(loss.gradient(backend.asarray(LOGITS), backend.asarray(target)), prediction.grad.numpy(), backend)


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
@pytest.mark.parametrize("ignored", [-100, 255, 2])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("class_weight", [None, CLASS_WEIGHT])
def test_labels_that_are_left_out_are_those_of_torch(
    backend: Backend, class_weight: Any, smoothing: float, ignored: int, dtype: str
) -> None:
    torch = pytest.importorskip("torch")
    if np.can_cast(np.min_scalar_type(ignored), dtype):
        labels = np.where(np.arange(7) % 3 == 1, ignored, LABELS).astype(dtype)
    else:  # no label can be that one
        labels = LABELS.astype(dtype)
    logits = np.where(labels[:, None] == ignored, np.nan, LOGITS)  # what they say does not matter
    loss = SoftmaxCrossEntropy(smoothing, class_weight, ignored)
    prediction = torch.tensor(LOGITS, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        prediction,
        torch.tensor(labels.astype("int64")),
        weight=None if class_weight is None else prediction.new_tensor(class_weight),
        ignore_index=ignored,
        label_smoothing=smoothing,
    )
    expected.backward()
    assert bool((prediction.grad == 0).all(axis=1).any()) == (ignored in labels)
    value, grad = loss.value_and_grad(backend.asarray(logits), backend.asarray(labels))
    assert_close(backend.asarray(value), expected.item(), backend)
    assert_close(grad, prediction.grad.numpy(), backend)
    # with weights too, they are as if they were not there
    kept = labels != ignored
    args = (LOGITS[kept], labels[kept], WEIGHT[kept])
    without = SoftmaxCrossEntropy(smoothing, class_weight).value_and_grad(*args)
    value, grad = loss.value_and_grad(backend.asarray(logits), backend.asarray(labels), backend.asarray(WEIGHT))
    assert_close(backend.asarray(value), float(without[0]), backend)
    assert_close(grad, _spread(without[1], kept), backend)


def _spread(rows: Any, kept: Any) -> Any:
    every = np.zeros((len(kept), rows.shape[1]))
    every[kept] = rows
    return every


@pytest.mark.parametrize("class_weight", [None, CLASS_WEIGHT])
@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_left_out_does_not_depend_on_the_batches(backend: Backend, class_weight: Any, weighted: bool) -> None:
    X, weight = RNG.normal(size=(7, 2)), WEIGHT if weighted else None
    labels = np.asarray([-1, 0, 3, -1, -1, 2, 1])
    kept = labels >= 0
    model = Sequential([Dense(4)], backend=backend, rng=0, dtype="float64")
    loss = SoftmaxCrossEntropy(class_weight=class_weight, ignore_index=-1)
    history = model.fit(X, labels, 1, 2, loss=loss, optimizer=SGD(0.0), sample_weight=weight)
    plain = SoftmaxCrossEntropy(class_weight=class_weight)
    logits = to_numpy(model.predict(X))
    expected = float(plain(logits[kept], labels[kept], None if weight is None else weight[kept]))
    assert history["loss"][0] == pytest.approx(expected, rel=1e-9)
    for size in (1, 3, 7):
        found = model.evaluate(X, labels, loss=loss, sample_weight=weight, batch_size=size)
        assert found["loss"] == pytest.approx(expected, rel=1e-9)


def test_a_batch_of_which_all_is_left_out_changes_nothing(backend: Backend) -> None:
    loss = SoftmaxCrossEntropy(ignore_index=-100)
    value, grad = loss.value_and_grad(backend.asarray(LOGITS), backend.asarray(np.full(7, -100)))
    assert float(to_numpy(backend.asarray(value))) == 0.0
    np.testing.assert_array_equal(to_numpy(grad), 0.0)
    with pytest.raises(ValueError, match=r"^every label is -100, which ignore_index leaves out"):
        loss.check_target(backend.asarray(np.full(7, -100)), (4,))
    with pytest.raises(ValueError, match=r"holds the label -100"):
        SoftmaxCrossEntropy().check_target(backend.asarray(np.asarray([0, -100])), (4,))
    with pytest.raises(ValueError, match=r"holds the label -1, "):
        loss.check_target(backend.asarray(np.asarray([-1, -100])), (4,))
    with pytest.raises(ValueError, match=r"^ignore_index is for labels"):
        loss.check_target(backend.asarray(PROBABILITIES), (4,))
    loss.check_target(backend.asarray(np.asarray([0, 156, 3], "uint8")[[0, 2]]), (4,))
    with pytest.raises(ValueError, match=r"holds the label 156"):
        loss.check_target(backend.asarray(np.asarray([0, 156], "uint8")), (4,))


@pytest.mark.parametrize(("loss", "target"), [case[:2] for case in CASES], ids=name_of)
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_gradients_by_random_projection(backend: Backend, loss: Loss, target: Any, weight: Any) -> None:
    y = backend.asarray(target)
    w = None if weight is None else backend.asarray(weight)

    def value(prediction: Any) -> Any:
        return to_numpy(loss(backend.asarray(prediction), y, w))

    grad = loss.gradient(backend.asarray(LOGITS), y, w)
    assert directional_error(value, grad, LOGITS, np.random.default_rng(1)) < 1e-9


@pytest.mark.parametrize(("loss", "target"), [case[:2] for case in CASES], ids=name_of)
def test_sample_weights_make_a_weighted_mean(backend: Backend, loss: Loss, target: Any) -> None:
    """Σ wᵢ ℓᵢ cᵢ / Σ wᵢ cᵢ from the losses of single samples, cᵢ what the class lets the sample count."""
    class_weight = getattr(loss, "class_weight", None)
    own = np.ones(7) if class_weight is None else np.asarray(class_weight)[LABELS]
    singles = [float(loss(LOGITS[i : i + 1], target[i : i + 1])) for i in range(7)]
    expected = np.sum(WEIGHT * own * singles) / np.sum(WEIGHT * own)
    value, grad = loss.value_and_grad(backend.asarray(LOGITS), backend.asarray(target), backend.asarray(WEIGHT))
    assert_close(backend.asarray(value), expected, backend)
    gradients = np.concatenate([loss.gradient(LOGITS[i : i + 1], target[i : i + 1]) for i in range(7)])
    assert_close(grad, (WEIGHT * own / np.sum(WEIGHT * own))[:, None] * gradients, backend)


@pytest.mark.parametrize(("loss", "target"), [case[:2] for case in CASES], ids=name_of)
def test_leading_axes_are_samples(backend: Backend, loss: Loss, target: Any) -> None:
    flat = loss.value_and_grad(LOGITS[:6], target[:6], WEIGHT[:6])
    shaped = (x[:6].reshape(2, 3, *x.shape[1:]) for x in (LOGITS, target, WEIGHT))
    value, grad = loss.value_and_grad(*map(backend.asarray, shaped))
    assert_close(backend.asarray(value), flat[0], backend)
    assert_close(grad, flat[1].reshape(2, 3, 4), backend)


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), SoftmaxCrossEntropy(class_weight=[1, 0, 0, 0])])
def test_a_batch_that_counts_nothing_has_loss_and_gradient_zero(backend: Backend, loss: Loss) -> None:
    labels, weight = backend.asarray(np.asarray([1, 2, 3])), backend.asarray(np.zeros(3))
    value, grad = loss.value_and_grad(backend.asarray(LOGITS[:3]), labels, weight)
    assert float(to_numpy(value)) == 0
    np.testing.assert_array_equal(to_numpy(grad), np.zeros((3, 4)))


def test_a_sample_of_weight_zero_is_left_out(backend: Backend) -> None:
    weight = np.asarray([1.0, 0, 1, 1, 0, 1, 1])
    keep = weight > 0
    loss = SoftmaxCrossEntropy(0.1, CLASS_WEIGHT)
    value, grad = loss.value_and_grad(*map(backend.asarray, (LOGITS, LABELS, weight)))
    alone = loss.value_and_grad(LOGITS[keep], LABELS[keep])
    assert_close(backend.asarray(value), alone[0], backend)
    assert np.all(to_numpy(grad)[~keep] == 0)
    np.testing.assert_allclose(to_numpy(grad)[keep], alone[1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "int64"])
def test_labels_of_every_kind_of_integer(backend: Backend, kind: str) -> None:
    loss = SoftmaxCrossEntropy()
    grad = loss.gradient(backend.asarray(LOGITS), backend.asarray(LABELS.astype(kind)))
    assert_close(grad, loss.gradient(LOGITS, LABELS), backend)


def test_labels_beyond_the_range_of_their_kind_of_integer(backend: Backend) -> None:
    """300 classes, labelled in 8 bits: the numbers of the classes must not wrap around."""
    logits, labels = np.zeros((2, 300)), np.asarray([1, 255], "uint8")
    grad = to_numpy(SoftmaxCrossEntropy().gradient(backend.asarray(logits), backend.asarray(labels)))
    assert [np.flatnonzero(row < 0).tolist() for row in grad] == [[1], [255]]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("loss", "target"), [case[:2] for case in CASES], ids=name_of)
def test_dtype_and_shape_stay(backend: Backend, loss: Loss, target: Any, dtype: str) -> None:
    if not hasattr(backend.xp, dtype):
        pytest.skip(f"{backend} has no {dtype}")
    for weight in (None, backend.asarray(WEIGHT, "float64")):
        value, grad = loss.value_and_grad(backend.asarray(LOGITS, dtype), backend.asarray(target), weight)
        assert value.dtype == backend.dtype(dtype)
        assert tuple(value.shape) == ()
        assert_same_kind(grad, backend, dtype, (7, 4))


def test_huge_logits_lose_nothing(backend: Backend) -> None:
    z = backend.asarray(np.asarray([[1e4, -1e4]]))
    for loss, wrong, right, step in (
        (SoftmaxCrossEntropy(), np.asarray([1]), np.asarray([0]), 1.0),
        (SigmoidCrossEntropy(), np.asarray([[0, 1]]), np.asarray([[1, 0]]), 0.5),
    ):
        value, grad = loss.value_and_grad(z, backend.asarray(wrong))
        assert float(to_numpy(value)) == pytest.approx(2e4 * step)
        np.testing.assert_allclose(to_numpy(grad), [[step, -step]])
        value, grad = loss.value_and_grad(z, backend.asarray(right))
        assert float(to_numpy(value)) == 0
        assert np.all(to_numpy(grad) == 0)


def test_a_loss_can_be_traced() -> None:
    jax = pytest.importorskip("jax")
    loss = SoftmaxCrossEntropy(0.1, CLASS_WEIGHT)
    value, grad = jax.jit(loss.value_and_grad)(jax.numpy.asarray(LOGITS), jax.numpy.asarray(LABELS))
    expected = loss.value_and_grad(LOGITS, LABELS)
    np.testing.assert_allclose(float(value), expected[0], rtol=1e-13)
    np.testing.assert_allclose(np.asarray(grad), expected[1], rtol=1e-12, atol=1e-15)


# ------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize(
    ("loss", "target", "says"),
    [
        (MeanSquaredError(), VALUES[:, :3], r"y has shape \(7, 3\), and MeanSquaredError needs .* \(7, 4\)"),
        (SoftmaxCrossEntropy(), LABELS + 4, r"y holds the label [4-7], and the 4 classes are labelled 0 to 3"),
        (SoftmaxCrossEntropy(), np.asarray([0, 1, 2, 3, 4, 0, 0]), "holds the label 4"),
        (SoftmaxCrossEntropy(), np.asarray([0, 1, 2, 3, -1, 0, 0]), "holds the label -1"),
        (SoftmaxCrossEntropy(), LABELS.astype("float64"), r"must be integers, and y has dtype .*astype\('int64'\)"),
        (SoftmaxCrossEntropy(), LABELS[:, None], r"needs labels of shape \(7,\) or one-hot rows of shape \(7, 4\)"),
        (SoftmaxCrossEntropy(), VALUES, "must be probabilities"),
        (SoftmaxCrossEntropy(), 2 * PROBABILITIES, "must be probabilities"),
        (SoftmaxCrossEntropy(class_weight=[1, 2]), LABELS, "class_weight has 2 numbers, and there are 4 classes"),
        (SigmoidCrossEntropy(), YES[:, 0], "SigmoidCrossEntropy needs one row"),
        (SigmoidCrossEntropy(), YES + 1, "between 0 and 1"),
        (SigmoidCrossEntropy(), YES - 1, "between 0 and 1"),
        (Quantile([0.1, 0.9]), VALUES, r"y has shape \(7, 4\), and Quantile needs .* \(7, 2\)"),
        (Quantile([0.1, 0.5, 0.9]), PAIRS, r"has 3 outputs for each number .* the model has 4: end it with Dense\(3\)"),
        (GaussianNLL(), VALUES, r"GaussianNLL needs .* \(7, 2\)"),
        (Poisson(), COUNTS - 1, "^the targets of Poisson must be 0 or more, and y holds -1$"),
        (Tweedie(), AMOUNTS - 9, "the targets of Tweedie must be 0 or more"),
        (Gamma(), COUNTS, "^the targets of Gamma must be positive, and y holds 0; Tweedie allows zeros$"),
        (Gamma(), VALUES, "the targets of Gamma must be positive, and y holds -"),
        (Tweedie(2.0), COUNTS, "the targets of Tweedie must be positive"),
        (Gamma(), YES.astype(bool), "the targets of Gamma must be positive"),
    ],
)
def test_targets_that_do_not_fit(backend: Backend, loss: Loss, target: Any, says: str) -> None:
    for given in (target, backend.asarray(target)):
        with pytest.raises(ValueError, match=says):
            loss.check_target(given, (4,))


def test_what_is_said_of_wrong_targets() -> None:
    loss = SoftmaxCrossEntropy()
    with pytest.raises(
        ValueError,
        match=r"^y has shape \(2, 5\), and SoftmaxCrossEntropy needs labels of shape \(2, 3\) or one-hot rows of shape "
        r"\(2, 3, 4\)$",
    ):
        loss.check_target(np.zeros((2, 5), "int64"), (3, 4))
    rows = np.full((2, 4), 0.25)
    for wrong in (rows + 2e-3 / 4, np.asarray([[-0.5, 0.5, 0.5, 0.5]]), rows[None] * [[[1.1], [0.9]]]):
        with pytest.raises(
            ValueError, match=r"^each row of one-hot targets must be probabilities: not negative, with sum 1$"
        ):
            loss.check_target(wrong, wrong.shape[1:])
    loss.check_target(rows + 5e-4 / 4, (4,))
    loss.check_target(np.broadcast_to(rows, (3, 2, 4)), (2, 4))
    with pytest.raises(ValueError, match=r"^the targets of SigmoidCrossEntropy must lie between 0 and 1$"):
        SigmoidCrossEntropy().check_target(np.asarray([[2.0]]), (1,))


def test_class_weights_are_kept_as_numbers() -> None:
    assert SoftmaxCrossEntropy(class_weight=np.asarray([0.25, 0, 0.5])).class_weight == (0.25, 0.0, 0.5)
    with pytest.raises(ValueError, match="class_weight must hold"):
        SoftmaxCrossEntropy(class_weight=[1, float("inf")])
    grad = SoftmaxCrossEntropy(class_weight=[1, 3]).gradient(np.zeros((2, 2)), np.asarray([0, 1]))
    np.testing.assert_allclose(grad, [[-0.125, 0.125], [0.375, -0.375]])


def test_targets_that_fit(backend: Backend) -> None:
    for loss, target in [case[:2] for case in CASES] + [
        (SoftmaxCrossEntropy(), np.eye(4, dtype="int64")[LABELS]),
        (SoftmaxCrossEntropy(), np.asarray([0, 3, 0, 0, 0, 0, 0])),
        (SigmoidCrossEntropy(), YES.astype(bool)),
        (Poisson(), YES.astype(bool)),
        (Poisson(), COUNTS.astype("uint8")),
        (Tweedie(1.0), COUNTS),
    ]:
        loss.check_target(backend.asarray(target), (4,))
    SoftmaxCrossEntropy().check_target(backend.asarray(np.zeros((7, 3), "int64")), (3, 4))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Huber(0), "delta must be a positive number, and is 0"),
        (lambda: SoftmaxCrossEntropy(1.0), "label_smoothing must be a number, at least 0 and below 1, and is 1.0"),
        (lambda: SoftmaxCrossEntropy(-0.1), "label_smoothing"),
        (lambda: SoftmaxCrossEntropy(ignore_index=0.5), "^ignore_index must be an integer, and is 0.5"),
        (lambda: SoftmaxCrossEntropy(class_weight=[1, -1]), "class_weight must hold a number for each class"),
        (lambda: SoftmaxCrossEntropy(class_weight=[0, 0]), "class_weight"),
        (lambda: SoftmaxCrossEntropy(class_weight=[]), "class_weight"),
        (lambda: SoftmaxCrossEntropy(class_weight={0: 1.0, 1: 2.0}), "for each class, in order"),
        (lambda: SoftmaxCrossEntropy(class_weight="12"), "class_weight"),
        (lambda: SoftmaxCrossEntropy(class_weight=3), "class_weight"),
        (lambda: SoftmaxCrossEntropy(class_weight=[1, float("nan")]), "class_weight"),
        (lambda: SigmoidCrossEntropy(0), "positive_weight must be a positive number, and is 0"),
        (lambda: SigmoidCrossEntropy(float("inf")), "positive_weight"),
        (lambda: Quantile([0.1, 1.0]), "a quantile must be a number, above 0 and below 1, and is 1.0"),
        (lambda: Quantile([0.9, 0.1]), r"quantiles must be numbers in ascending order, and are \[0.9, 0.1\]"),
        (lambda: Quantile([0.5, 0.5]), "ascending"),
        (lambda: Quantile([]), "ascending"),
        (lambda: Tweedie(0.5), "power must be a number, at least 1 and at most 2, and is 0.5"),
    ],
)
def test_arguments_out_of_range(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_losses_by_name() -> None:
    for name, kind in LOSSES.items():
        assert LOSSES.made(name) == kind()
    loss = Huber(2.0)
    assert LOSSES.made(loss) is loss
    known = ", ".join([*LOSSES, "or an object of a subclass of Loss"])
    assert known.startswith("mean_squared_error, mean_absolute_error, huber, softmax_cross_entropy, sigmoid_cross")
    for wrong, near in (("hubert", "huber"), ("squared", "mean_squared_error")):
        with pytest.raises(ValueError, match=rf"^unknown loss '{wrong}'; did you mean '{near}'\? Known: {known}$"):
            LOSSES.made(wrong)
    with pytest.raises(ValueError, match=rf"^unknown loss 'zzz'\. Known: {known}$"):
        LOSSES.made("zzz")
    with pytest.raises(TypeError, match=r"pass Huber\(\.\.\.\)"):
        LOSSES.made(Huber)
    with pytest.raises(TypeError, match=r"^a loss is a name or an object of a subclass of Loss, and this is <function"):
        LOSSES.made(lambda p, t: 0)
    with pytest.raises(NotImplementedError, match=r"^Loss has no sample_losses"):
        Loss()(LOGITS, LABELS)


# ------------------------------------------------------------------ infinities, and what counts nothing

INF, LARGEST = float("inf"), 3e38


@pytest.mark.parametrize(
    ("loss", "prediction", "target", "value"),
    [
        (SoftmaxCrossEntropy(), [0.0, -INF, 1.0], 2, 0.31326166),
        (SoftmaxCrossEntropy(), [0.0, -INF, 1.0], 1, INF),
        (SoftmaxCrossEntropy(), [-INF, 0.0, -INF], 1, 0.0),
        (SoftmaxCrossEntropy(), [LARGEST, -LARGEST], 0, 0.0),
        (SoftmaxCrossEntropy(class_weight=(1.0, 0.0, 2.0)), [0.0, -INF, 1.0], 2, 0.31326166),
        (SoftmaxCrossEntropy(), [0.0, -INF, 1.0], [0.5, 0.0, 0.5], 0.81326166),
        (SigmoidCrossEntropy(), [INF], [1.0], 0.0),
        (SigmoidCrossEntropy(), [-INF], [0.0], 0.0),
        (SigmoidCrossEntropy(), [INF], [0.0], INF),
        (SigmoidCrossEntropy(3.0), [-INF], [1.0], INF),
        (SigmoidCrossEntropy(), [LARGEST], [1.0], 0.0),
        (SigmoidCrossEntropy(), [-LARGEST], [1.0], LARGEST),
        (MeanSquaredError(), [INF], [1.0], INF),
        (MeanAbsoluteError(), [-INF], [1.0], INF),
        (MeanAbsoluteError(), [LARGEST], [0.0], LARGEST),
        (Huber(), [INF], [1.0], INF),
        (Huber(2.0), [-LARGEST / 4], [0.0], LARGEST / 2),
        (Quantile([0.25]), [INF], [1.0], INF),
        (Quantile([0.25]), [-INF], [1.0], INF),
        (Quantile([0.25]), [-LARGEST], [0.0], LARGEST / 4),
        (Quantile([0.25, 0.75]), [INF, 1.0], [1.0], INF),
        (Poisson(), [INF], [2.0], INF),
        (Poisson(), [LARGEST], [2.0], INF),
        (Poisson(), [LARGEST], [LARGEST], INF),
        (Poisson(), [-INF], [2.0], INF),
        (Poisson(), [-INF], [0.0], 0.0),
        (Poisson(), [-LARGEST], [0.0], 0.0),
        (Gamma(), [INF], [2.0], INF),
        (Gamma(), [LARGEST], [2.0], LARGEST),
        (Gamma(), [-INF], [2.0], INF),
        (Gamma(), [-LARGEST], [1e-30], INF),
        (Tweedie(), [INF], [0.0], INF),
        (Tweedie(), [INF], [2.0], INF),
        (Tweedie(), [-INF], [2.0], INF),
        (Tweedie(), [-INF], [0.0], 0.0),
        (GaussianNLL(), [INF, 0.0], [2.0], INF),
        (GaussianNLL(), [INF, INF], [2.0], INF),
        (GaussianNLL(), [INF, -INF], [2.0], INF),
        (GaussianNLL(), [1.0, INF], [2.0], INF),
        (GaussianNLL(), [1.0, -INF], [2.0], INF),
        (GaussianNLL(), [1.0, -LARGEST], [2.0], INF),
        (GaussianNLL(), [1.0, LARGEST], [2.0], LARGEST / 2),
        (GaussianNLL(), [2.0, -LARGEST], [2.0], -LARGEST / 2),
        (GaussianNLL(), [2.0, -INF], [2.0], -INF),
        (GaussianNLL(), [1e30, 140.0], [0.0], 0.5 * (140 + 1e60 * np.exp(-140.0))),
    ],
)
def test_infinite_predictions(backend: Backend, loss: Loss, prediction: Any, target: Any, value: float) -> None:
    put = backend.asarray
    kind = None if isinstance(target, int) else "float32"
    found, gradient = loss.value_and_grad(put([prediction], "float32"), put([target], kind))
    assert float(found) == pytest.approx(value, rel=1e-6)
    assert not np.isnan(to_numpy(gradient)).any()


@pytest.mark.parametrize(
    "loss",
    [
        MeanSquaredError(),
        MeanAbsoluteError(),
        Huber(),
        SigmoidCrossEntropy(),
        Quantile(),
        Poisson(),
        Gamma(),
        Tweedie(),
    ],
    ids=repr,
)
def test_what_weighs_nothing_may_be_infinite(backend: Backend, loss: Loss) -> None:
    put = backend.asarray
    prediction, target = put([[1.0], [INF]], "float32"), put([[0.0], [0.0]], "float32")
    value, gradient = loss.value_and_grad(prediction, target, put([1.0, 0.0], "float32"))
    alone, slope = loss.value_and_grad(prediction[:1, :], target[:1, :])
    assert float(value) == pytest.approx(float(alone))
    np.testing.assert_allclose(to_numpy(gradient), [[float(slope[0, 0])], [0.0]], rtol=1e-6)


def test_a_nan_stays_one(backend: Backend) -> None:
    put = backend.asarray
    for loss in (
        *(SoftmaxCrossEntropy(), SigmoidCrossEntropy(), MeanSquaredError(), MeanAbsoluteError(), Huber()),
        *(Quantile(), Poisson(), Gamma(), Tweedie()),
    ):
        target = put([0]) if isinstance(loss, SoftmaxCrossEntropy) else put([[0.0, 0.0, 0.0]], "float32")
        assert np.isnan(float(loss(put([[1.0, float("nan"), 2.0]], "float32"), target)))


@pytest.mark.parametrize("prediction", [[[float("nan"), 1.0]], [[1.0, float("nan")]]])
@pytest.mark.parametrize("loss", [GaussianNLL(), Quantile([0.1, 0.9])], ids=repr)
def test_a_nan_among_several_outputs_stays_one(backend: Backend, loss: Loss, prediction: Any) -> None:
    for target in (1.0, 5.0):
        value = loss(backend.asarray(prediction, "float32"), backend.asarray([[target]], "float32"))
        assert np.isnan(float(value))


def test_the_weights_of_a_loss_are_those_that_it_counts_with(backend: Backend) -> None:
    loss = SoftmaxCrossEntropy(class_weight=(1.0, 5.0, 0.1))
    prediction = np.random.default_rng(0).normal(size=(6, 3))
    for target in (np.asarray([0, 1, 2, 2, 1, 0]), np.eye(3)[[0, 1, 2, 2, 1, 0]], np.full((6, 3), 1 / 3)):
        own = loss.sample_losses(backend.asarray(prediction, "float32"), backend.asarray(target))[2]
        np.testing.assert_allclose(loss.sample_weights(target, 2), to_numpy(own), rtol=1e-6)
    assert SoftmaxCrossEntropy().sample_weights(np.asarray([0]), 2) is None


def test_short_names_are_names_too() -> None:
    for short, long in (
        ("mse", "mean_squared_error"),
        ("mae", "mean_absolute_error"),
        ("bce", "sigmoid_cross_entropy"),
        ("gaussian", "gaussian_nll"),
    ):
        assert LOSSES.made(short) == LOSSES.made(long)
        assert LOSSES.written(LOSSES.made(short)) == long


# ------------------------------------------------------------------ distributions


@pytest.mark.parametrize(
    ("loss", "name", "settings", "target"),
    [
        (Quantile([0.3]), "PinballLoss", {"quantile": 0.3}, VALUES),
        (Poisson(), "HalfPoissonLoss", {}, COUNTS),
        (Gamma(), "HalfGammaLoss", {}, AMOUNTS),
        (Tweedie(1.3), "HalfTweedieLoss", {"power": 1.3}, COUNTS),
    ],
    ids=name_of,
)
def test_distributions_are_those_of_scikit_learn(
    backend: Backend, loss: Loss, name: str, settings: Any, target: Any
) -> None:
    """But for terms without the prediction."""
    theirs = getattr(pytest.importorskip("sklearn._loss"), name)(**settings)
    raw, true = LOGITS[:, 0].copy(), target[:, 0].copy()
    value, grad = loss.value_and_grad(backend.asarray(raw[:, None]), backend.asarray(true[:, None]))
    other = loss(backend.asarray(0 * raw[:, None]), backend.asarray(true[:, None]))
    expected, slopes = theirs.loss_gradient(y_true=true, raw_prediction=raw)
    base = theirs.loss(y_true=true, raw_prediction=0 * raw)
    assert_close(backend.asarray(value - other), float(np.mean(expected - base)), backend)
    assert_close(grad, slopes[:, None] / 7, backend)


def test_likelihoods_are_those_of_scipy() -> None:
    """Differences of the losses of two predictions are those of the logarithms of the densities."""
    stats = pytest.importorskip("scipy.stats")
    first, second = LOGITS[:, :1], LOGITS[:, 1:2]
    true = AMOUNTS[:, :1]
    for loss, target, density in (
        (Poisson(), COUNTS[:, :1], lambda z: stats.poisson.logpmf(COUNTS[:, :1], np.exp(z))),
        (Gamma(), true, lambda z: stats.gamma.logpdf(true, 1.0, scale=np.exp(z))),
    ):
        found = float(loss(first, target) - loss(second, target))
        assert found == pytest.approx(float(np.mean(density(second) - density(first))), rel=1e-10)
    found = float(GaussianNLL()(LOGITS[:, :2], true)) + 0.5 * np.log(2 * np.pi)
    assert found == pytest.approx(-np.mean(stats.norm.logpdf(true, first, np.exp(second / 2))), rel=1e-12)


@pytest.mark.parametrize(("near", "loss"), [(1.0, Poisson()), (2.0, Gamma())])
def test_tweedie_ends_at_poisson_and_gamma(near: float, loss: Loss) -> None:
    np.testing.assert_array_equal(Tweedie(near).gradient(LOGITS, AMOUNTS), loss.gradient(LOGITS, AMOUNTS))
    assert float(Tweedie(near)(LOGITS, AMOUNTS)) == float(loss(LOGITS, AMOUNTS))
    inside = abs(near - 1e-9) if near == 2.0 else near + 1e-9
    np.testing.assert_allclose(Tweedie(inside).gradient(LOGITS, AMOUNTS), loss.gradient(LOGITS, AMOUNTS), atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "draw", "asked"),
    [
        (Quantile([0.1, 0.5, 0.8]), lambda rng: rng.exponential(size=2000), lambda y: np.quantile(y, [0.1, 0.5, 0.8])),
        (Poisson(), lambda rng: rng.poisson(3.0, 2000), lambda y: [np.log(y.mean())]),
        (Gamma(), lambda rng: rng.gamma(2.0, 1.5, 2000), lambda y: [np.log(y.mean())]),
        (Tweedie(), lambda rng: np.maximum(rng.normal(size=2000), 0.0), lambda y: [np.log(y.mean())]),
        (GaussianNLL(), lambda rng: rng.normal(2.0, 0.5, 2000), lambda y: [y.mean(), np.log(y.var())]),
    ],
    ids=name_of,
)
def test_a_model_learns_what_the_loss_asks_for(backend: Backend, loss: Loss, draw: Any, asked: Any) -> None:
    y, ones = draw(np.random.default_rng(0)), np.ones((2000, 1))
    model = Sequential([Dense(loss.outputs_per_target)], backend=backend, rng=0)
    model.fit(ones, y, 60, 400, loss=loss, optimizer=Adam(0.05), validation_data=(ones, y))
    np.testing.assert_allclose(to_numpy(model.predict(ones[:1]))[0], asked(y), atol=0.1)


def test_the_numbers_of_a_loss_wait_on_the_device(backend: Backend) -> None:
    for loss in (Quantile([0.1, 0.9]), SoftmaxCrossEntropy(class_weight=(1.0, 2.0))):
        placed = loss.placed(backend, "float32")
        name = loss.own_numbers[0]
        assert_same_kind(getattr(placed, name), backend, "float32", (2,))
        assert isinstance(getattr(loss, name), tuple)
    assert SoftmaxCrossEntropy().placed(backend, "float32").class_weight is None
