"""A small network on real data, on any backend, beside the same run on NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dense_xp.backend import Backend, get_backend
from dense_xp.datasets import load_digits
from dense_xp.layers.dense import Dense
from dense_xp.layers.dropout import Dropout
from dense_xp.learning.optimizers import Adam
from dense_xp.learning.schedules import CosineSchedule
from dense_xp.learning.special import log_softmax
from dense_xp.training.sequential import Sequential

N_TEST = 360
BATCH_SIZE = 32


@dataclass(frozen=True)
class Demo:
    """What a run of the demonstration measured.

    Attributes
    ----------
    model : Sequential
        The trained network.
    accuracy : float
        Share of the test images whose digit it names.
    samples_per_second : float
        How many samples it learned from in a second, the first epoch and its compilation included.
    difference_from_numpy : float
        The largest difference, over all test images and digits, between the probabilities that this
        network gives and those of the same seed's run on NumPy; 0 on NumPy itself.
    same_start : bool
        Whether both runs started from the same weights, bit for bit.
    """

    model: Sequential
    accuracy: float
    samples_per_second: float
    difference_from_numpy: float
    same_start: bool


def run(backend: Backend, *, epochs: int = 30, seed: int = 0, verbose: bool | None = None) -> Demo:
    """Train a network on the handwritten digits, and once more on NumPy for comparison.

    Parameters
    ----------
    backend : Backend
        Where to train.
    epochs : int, default 30
        How often to go through the training images.
    seed : int, default 0
        Fixes the split into training and test images, the initial weights, the order and dropout.
    verbose : bool, optional
        Whether to show progress; by default only on a terminal.

    Returns
    -------
    Demo
        The trained network and what was measured.
    """
    images, labels = load_digits()
    order = np.random.default_rng(seed).permutation(len(images))
    test, train = order[:N_TEST], order[N_TEST:]
    steps = epochs * -(-len(train) // BATCH_SIZE)

    def trained(where: Backend, verbose: bool | None) -> tuple[Sequential, dict[str, np.ndarray], float]:
        model = Sequential(
            [Dense(128, activation="relu", kernel_initializer="he_uniform"), Dropout(0.2), Dense(10)],
            input_shape=(64,),
            backend=where,
            rng=seed,
        )
        model.initialize(Adam(CosineSchedule(3e-3, steps)))
        start = {name: where.to_numpy(value).copy() for name, value in model.weights.items()}
        history = model.fit(images[train], labels[train], epochs, BATCH_SIZE, metrics=["accuracy"], verbose=verbose)
        return model, start, history.samples / history.seconds

    model, start, speed = trained(backend, verbose)
    prediction = model.predict(images[test])
    accuracy = float(np.mean(prediction.argmax(axis=-1) == labels[test]))
    if backend.name == "numpy":
        return Demo(model, accuracy, speed, 0.0, True)
    reference, reference_start, _ = trained(get_backend("numpy"), False)
    outputs = (prediction, reference.predict(images[test]))
    ours, theirs = (log_softmax(logits.astype("float64"))[1] for logits in outputs)
    same_start = all(np.array_equal(value, reference_start[name]) for name, value in start.items())
    return Demo(model, accuracy, speed, float(np.abs(ours - theirs).max()), same_start)
