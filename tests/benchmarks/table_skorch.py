"""skorch, a library without defaults of its own: one hidden layer of 100 units, Adam, and early stopping."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import EarlyStopping
from torch import nn

torch.set_num_threads(1)
SETTINGS: dict[str, Any] = {
    "optimizer": torch.optim.Adam,
    "lr": 1e-3,
    "max_epochs": 200,
    "batch_size": 128,
    "callbacks": [EarlyStopping(patience=10, load_best=True)],
    "verbose": 0,
}


class _Network(nn.Sequential):
    def __init__(self, outputs: int) -> None:
        super().__init__(nn.LazyLinear(100), nn.ReLU(), nn.Linear(100, outputs))


def _as_float32(X: Any) -> Any:
    return X.astype(np.float32) if isinstance(X, np.ndarray) else X  # else skorch's own, while it fits


class Classifier(NeuralNetClassifier):
    """Takes float64, and knows how many classes there are from the labels."""

    def fit(self, X: Any, y: Any) -> Any:
        self.set_params(module__outputs=int(y.max()) + 1)
        return super().fit(X.astype(np.float32), y.astype(np.int64))

    def predict_proba(self, X: Any) -> Any:
        return super().predict_proba(_as_float32(X))


class Regressor(NeuralNetRegressor):
    """Takes float64, and brings targets to mean 0 and variance 1."""

    def fit(self, X: Any, y: Any) -> Any:
        self.units_ = y.mean(), y.std()
        scaled = (y - self.units_[0]) / self.units_[1]
        return super().fit(X.astype(np.float32), scaled.astype(np.float32)[:, None])

    def predict(self, X: Any) -> Any:
        return super().predict(_as_float32(X))[:, 0].astype(np.float64) * self.units_[1] + self.units_[0]


def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(_Network, module__outputs=2, criterion=nn.CrossEntropyLoss, **SETTINGS)


def regressor() -> Regressor:
    torch.manual_seed(0)
    return Regressor(_Network, module__outputs=1, **SETTINGS)
