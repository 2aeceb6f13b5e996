"""The estimators beside others on real tables, all at their defaults: ``python -m tests.benchmarks.tables``.

    python -m tests.benchmarks.tables --results tables.json
    python -m tests.benchmarks.tables --results tables.json --half choosing --ours 'wide={"hidden_layer_sizes": 512}'

The tables ship inside packages; ``table_data.py`` lists them and says how to install them. All contenders get the
same numbers and the same folds. ``--half choosing`` is what defaults may be chosen by, ``--half final`` what was only
looked at once. Each result is written as soon as it is there, and a run goes on where another stopped.

Log-loss takes probabilities of at least 1e-7, what float32 can say. Seconds are those of the processor, in one thread,
for ``fit`` alone: a busy machine changes them little. Ratios are geometric means over tables, of errors that are means
over folds; behind them stand the factor of one standard error, and on how many tables the ratio is below 1.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import accuracy_score, log_loss, r2_score, roc_auc_score, root_mean_squared_error
from sklearn.neural_network import MLPClassifier, MLPRegressor
from threadpoolctl import threadpool_limits

from dense_xp.estimators import DenseClassifier, DenseRegressor
from tests.benchmarks.table_data import FOLDS, Table, tables

Record = dict[str, Any]
LEAST = float(np.finfo(np.float32).eps)


def contenders() -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Return all that can be imported, by name: a classifier and a regressor."""
    found: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "dense_xp": (lambda: DenseClassifier(random_state=0), lambda: DenseRegressor(random_state=0)),
        "constant": (lambda: DummyClassifier(), lambda: DummyRegressor()),
        "linear": (lambda: LogisticRegression(max_iter=1000), lambda: RidgeCV(np.logspace(-3, 3, 13))),
        "MLP": (lambda: MLPClassifier(random_state=0), lambda: MLPRegressor(random_state=0)),
        "HistGradientBoosting": (
            lambda: HistGradientBoostingClassifier(random_state=0),
            lambda: HistGradientBoostingRegressor(random_state=0),
        ),
    }
    try:
        import pytabkit
    except ImportError:
        pass
    else:
        one: dict[str, Any] = {"device": "cpu", "n_threads": 1, "random_state": 0}
        for name in ("RealMLP_TD", "RealMLP_TD_S"):
            pair = [getattr(pytabkit, f"{name}_{kind}") for kind in ("Classifier", "Regressor")]
            found[name] = tuple((lambda make=make: make(**one)) for make in pair)
    try:
        import skorch  # noqa: F401 - whether it is there
    except ImportError:
        pass
    else:
        from tests.benchmarks.table_skorch import classifier, regressor

        found["skorch"] = (classifier, regressor)
    return found


def measured(make: Callable[[], Any], table: Table, fold: int, parts: tuple[Any, Any], rows: tuple[Any, Any]) -> Record:
    """Fit on one fold; return its scores and the seconds that the fit took."""
    X, X_new, y, y_new = *parts, table.target[rows[0]], table.target[rows[1]]
    model = make()
    start = time.process_time()
    model.fit(X, y)
    seconds = time.process_time() - start
    record: Record = {
        "table": table.name,
        "fold": fold,
        "seconds": seconds,
        "epochs": int(np.max(getattr(model, "n_iter_", 0))),
    }
    if table.regression:
        answers = np.asarray(model.predict(X_new), dtype=np.float64).reshape(len(y_new))
        return record | {"error": root_mean_squared_error(y_new, answers), "score": r2_score(y_new, answers)}
    chances = np.clip(np.asarray(model.predict_proba(X_new), dtype=np.float64), LEAST, 1.0)
    chances /= chances.sum(axis=1, keepdims=True)
    auc = roc_auc_score(y_new, chances[:, 1] if chances.shape[1] == 2 else chances, multi_class="ovr")
    accuracy = accuracy_score(y_new, model.classes_[chances.argmax(axis=1)])
    return record | {"error": log_loss(y_new, chances), "score": auc, "accuracy": accuracy}


class Results:
    """What was measured, in a JSON file of one record a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.records: list[Record] = [json.loads(line) for line in lines if line.endswith("}")]

    def has(self, who: str, table: str, fold: int) -> bool:
        return any((r["who"], r["table"], r["fold"]) == (who, table, fold) for r in self.records)

    def add(self, record: Record) -> None:
        self.records.append(record)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def mean(self, who: str, table: str, what: str, folds: Iterable[int] | None = None) -> float:
        """Return the mean over folds; NaN if one is missing."""
        found = {r["fold"]: r[what] for r in self.records if (r["who"], r["table"]) == (who, table)}
        wanted = list(found) if folds is None else list(folds)
        return float(np.mean([found.get(fold, np.nan) for fold in wanted])) if wanted else float("nan")


def ratio_text(ratios: Any) -> str:
    """Return a geometric mean, the factor of one standard error, and how many ratios are below 1."""
    logs = np.log(np.asarray(ratios))
    spread = np.exp(logs.std(ddof=1) / np.sqrt(len(logs))) if len(logs) > 1 else float("nan")
    return f"{np.exp(logs.mean()):.3f} ×/÷ {spread:.3f} ({np.sum(logs < 0)} of {len(logs)})"


def against_text(results: Results, names: list[str], ours: str, theirs: str, folds: Iterable[int]) -> str | None:
    """Return one line of the summary: error, score and time of ours beside theirs, over the tables that both have."""
    pairs = {what: [[results.mean(who, name, what, folds) for who in (ours, theirs)] for name in names]
             for what in ("error", "score", "seconds")}  # fmt: skip
    error, score, seconds = (np.asarray(pairs[what]) for what in pairs)
    both = np.isfinite(error).all(axis=1)
    if not both.any():
        return None
    gain = (score[:, 0] - score[:, 1])[both]
    times = ratio_text((seconds[:, 0] / seconds[:, 1])[both]).split(" (")[0]
    return f"| {ours} | {theirs} | {ratio_text((error[:, 0] / error[:, 1])[both])} | {gain.mean():+.4f} | {times} |"


def report(results: Results, chosen: list[Table], ours: list[str], others: list[str], folds: range) -> str:
    """Return the results as Markdown: the means, then all tables, lost ones first."""
    lines: list[str] = []

    def mean(who: str, name: str) -> float:
        return results.mean(who, name, "error", folds)

    for regression, what, score in ((False, "log-loss", "AUC"), (True, "RMSE", "R²")):
        names = [table.name for table in chosen if table.regression == regression]
        if not names:
            continue
        lines += [f"\n| ours | against | {what}, ratio | {score}, difference | seconds, ratio |", "| --- " * 5 + "|"]
        rows = [against_text(results, names, me, other, folds) for me in ours for other in [*others, *ours]
                if me != other]  # fmt: skip
        lines += [row for row in rows if row]
        every = [
            who for who in [*ours, *others] if any(np.isfinite(results.mean(who, n, "error", folds)) for n in names)
        ]
        lines += [f"\n| {what} (seconds) | " + " | ".join(every) + " |", "| --- " * (len(every) + 1) + "|"]
        best = {
            name: min(
                (error for who in every if who not in ours and np.isfinite(error := mean(who, name))), default=1.0
            )
            for name in names
        }
        for name in sorted(names, key=lambda name: best[name] / mean(ours[0], name)):
            cells = [f"{results.mean(w, name, 'error', folds):.4g} ({results.mean(w, name, 'seconds', folds):.2f})"
                     for w in every]  # fmt: skip
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _warm_up(model: Any) -> None:
    model.fit(np.random.default_rng(0).normal(size=(300, 4)), np.arange(300) % 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("tables.json"), help="one record a line; goes on with it")
    parser.add_argument("--half", choices=["choosing", "final", "all"], default="all")
    parser.add_argument("--only", nargs="*", help="names of tables")
    parser.add_argument("--folds", type=int, default=FOLDS, help="how many of the folds")
    parser.add_argument("--against", nargs="*", help="names of contenders; by default all that are installed")
    parser.add_argument("--ours", nargs="*", default=[], metavar="NAME=JSON", help="parameters beside the defaults")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn warns that it has not converged
    available = contenders()
    for text in arguments.ours:
        name, _, values = text.partition("=")
        given = json.loads(values)
        available[name] = (
            lambda given=given: DenseClassifier(random_state=0, **given),
            lambda given=given: DenseRegressor(random_state=0, **given),
        )
    ours = [text.partition("=")[0] for text in arguments.ours] or ["dense_xp"]
    others = [name for name in available if name not in [*ours, "dense_xp"]]
    others = others if arguments.against is None else arguments.against
    results, chosen = Results(arguments.results), []
    warmed: set[tuple[str, bool]] = set()
    threadpool_limits(1)
    for table in tables():
        if arguments.half != "all" and table.for_choosing != (arguments.half == "choosing"):
            continue
        if arguments.only and table.name not in arguments.only:
            continue
        chosen.append(table)
        for fold, rows in list(enumerate(table.folds()))[: arguments.folds]:
            missing = [who for who in [*ours, *others] if not results.has(who, table.name, fold)]
            parts = table.prepared(*rows) if missing else None
            for who in missing:
                make = available[who][table.regression]
                if (who, table.regression) not in warmed:  # compilers and imports take their time once
                    warmed.add((who, table.regression))
                    _warm_up(make())
                record = measured(make, table, fold, parts, rows)
                results.add({"who": who} | record)
                print(f"{table.name} {fold} {who}: {record['error']:.4g}, {record['seconds']:.2f} s", flush=True)
    print(report(results, chosen, ours, others, range(arguments.folds)))


if __name__ == "__main__":
    main()
