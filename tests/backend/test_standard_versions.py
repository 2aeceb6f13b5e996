"""From which version of the Array API standard on a library will do: array-api-strict has them all."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dense_xp import Adam, BatchNorm, Dense, Dropout, LayerNorm, LoRA, Sequential, quantize
from dense_xp.backend import Backend, get_backend, to_numpy
from dense_xp.evidence.parity import Case, cases, measure

strict = pytest.importorskip("array_api_strict")

BACKENDS_PAGE = (Path(__file__).parents[2] / "docs" / "backends.md").read_text(encoding="utf-8")
OLDEST = re.search(r"from its version \*\*(\d{4}\.12)\*\* on", BACKENDS_PAGE)[1]  # type: ignore[index]
CASES = {case.name: case for case in cases("float32", shapes=((4, 5),))}


def known(version: str) -> bool:
    """Whether the installed array-api-strict has a version of the standard; of a draft it warns."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with strict.ArrayAPIStrictFlags(api_version=version):
                return True
    except (ValueError, UserWarning):
        return False


VERSIONS = [version for version in (f"{year}.12" for year in range(int(OLDEST[:4]), 2100)) if known(version)]


@pytest.fixture(params=VERSIONS)
def standard(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with strict.ArrayAPIStrictFlags(api_version=request.param):
        yield get_backend("array_api_strict")


def test_the_newest_version_is_among_them() -> None:
    assert strict.get_array_api_strict_flags()["api_version"] in VERSIONS


@pytest.mark.parametrize("name", CASES)
def test_every_number_is_within_its_bound(standard: Backend, name: str) -> None:
    with np.errstate(all="ignore"):
        assert measure(CASES[name], standard, "float32").share <= 1


def test_a_model_is_trained_as_by_numpy(standard: Backend) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 4)), rng.integers(0, 3, 40)
    found: list[Any] = []
    for backend in (standard, get_backend("numpy")):
        layers = [Dense(8, activation="gelu"), LayerNorm(), Dropout(0.1), BatchNorm(), Dense(3)]
        model = Sequential(layers, backend=backend, rng=0, dtype="float64")
        metrics = ["accuracy", "top_2", "f1", "auc"]
        history = model.fit(X, y, 3, 16, metrics=metrics, validation_data=(X, y), optimizer=Adam(0.01, clip_norm=1.0))
        found.append((dict(history), to_numpy(model.predict(X)), to_numpy(quantize(model).predict(X))))
    assert found[0][0].keys() == found[1][0].keys()
    for name, column in found[0][0].items():
        np.testing.assert_allclose(column, found[1][0][name], rtol=1e-9)
    for ours, numpys in zip(found[0][1:], found[1][1:], strict=True):
        np.testing.assert_allclose(ours, numpys, rtol=1e-7, atol=1e-9)


def test_adapters_learn(standard: Backend) -> None:
    model = Sequential([LoRA(Dense(3, (4,)), 2)], backend=standard, rng=0)
    history = model.fit(np.eye(4), np.arange(4) % 3, 20, 4, optimizer=Adam(0.1))
    assert history["loss"][-1] < history["loss"][0]


def test_the_version_before_lacks_numbers_among_arrays() -> None:
    """What the page says of it; if this fails, an older version will do, and the page can say so."""
    before = f"{int(OLDEST[:4]) - 1}.12"
    assert known(before)
    relu: Case = CASES["ReLU"]
    with strict.ArrayAPIStrictFlags(api_version=before), pytest.raises(AttributeError, match="'float' object has no"):
        relu.function({key: strict.asarray(value) for key, value in relu.inputs.items()})
