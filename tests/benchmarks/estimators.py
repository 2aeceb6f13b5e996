"""Accuracy beside scikit-learn's perceptrons, both at their defaults: ``python -m tests.benchmarks.estimators``.

Data sets that come with scikit-learn, with and without ``StandardScaler`` before the network; cross-validated, and
repeated with other folds and other initial weights. The score is accuracy, or R² for the regression; behind ± stands
the standard deviation over the repetitions, each the mean of its folds. The last column is the mean difference and its
standard error, repetition by repetition, on the same folds. Nothing is tuned for a data set.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
import sklearn
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dense_xp.estimators import DenseClassifier, DenseRegressor

DATA = {"digits": load_digits, "breast cancer": load_breast_cancer, "wine": load_wine, "diabetes": load_diabetes}


def scores(model: Any, X: Any, y: Any, seed: int, scaled: bool, splitter: Any) -> Any:
    model = model(random_state=seed)
    pipeline = make_pipeline(StandardScaler(), model) if scaled else model
    return cross_val_score(pipeline, X, y, cv=splitter(5, shuffle=True, random_state=seed)).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn warns that it has not converged
    print(f"scikit-learn {sklearn.__version__}, 5 folds, {arguments.repetitions} repetitions\n")
    print("| data | input | scikit-learn | dense_xp | difference | time |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, load in DATA.items():
        X, y = load(return_X_y=True)
        regression = name == "diabetes"
        models = (MLPRegressor, DenseRegressor) if regression else (MLPClassifier, DenseClassifier)
        for scaled in (True, False):
            found: list[list[float]] = [[], []]
            seconds = [0.0, 0.0]
            for seed in range(arguments.repetitions):
                for i, model in enumerate(models):
                    start = time.perf_counter()
                    found[i].append(scores(model, X, y, seed, scaled, KFold if regression else StratifiedKFold))
                    seconds[i] += time.perf_counter() - start
            theirs, ours = map(np.asarray, found)
            difference = ours - theirs
            error = difference.std(ddof=1) / np.sqrt(len(difference))
            cells = [f"{a.mean():.4f} ± {a.std(ddof=1):.4f}" for a in (theirs, ours)]
            print(
                f"| {name} | {'scaled' if scaled else 'raw'} | {cells[0]} | {cells[1]} | "
                f"{difference.mean():+.4f} ± {error:.4f} | {seconds[1] / seconds[0]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
