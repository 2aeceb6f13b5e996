"""Several ranks learn what one process learns: under a real ``mpiexec``, within the bound of the parity page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dense_xp import BackendError, get_backend
from tests.conftest import REQUIRED
from tests.training.distributed import launching, trainings

RANKS = (1, 2, 3, 4)
ALLOWED = 4.0
"""Times the distance between a float32 and a float64 training of one process, as on the parity page."""

Results = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def alone() -> dict[tuple[str, str], Results]:
    """What one process learns without MPI, by case and dtype; filled as it is asked for."""
    return {}


@pytest.fixture(scope="module", params=RANKS)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """All cases, run once on so many ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    module = "tests.training.distributed.trainings"
    done = launching.run(request.param, "-m", module, str(folder), "mpi", "numpy", *trainings.CASES)
    assert done.status == 0, done.said
    return request.param, folder


def read(folder: Path, case: str, dtype: str, rank: int) -> Results:
    with np.load(folder / f"{case}-{dtype}-{rank}.npz") as file:
        return dict(file)


def distance(one: Results, two: Results) -> float:
    """Return the largest difference of a weight."""
    return max(float(np.max(np.abs(one[name] - two[name]))) for name in one if name.startswith("weight"))


def check(case: str, found: dict[str, Results], alone: dict[tuple[str, str], Results]) -> None:
    for dtype in found:
        if (case, dtype) not in alone:
            alone[case, dtype] = trainings.results(case, dtype, None)
    rounding = distance(alone[case, "float32"], alone[case, "float64"])
    for dtype, results in found.items():
        want = alone[case, dtype]
        assert results.keys() == want.keys()
        np.testing.assert_array_equal(results["counts"], want["counts"])
        bound = ALLOWED * rounding * (1.0 if dtype == "float32" else 2.0**-29)
        if case == "half":  # both dtypes are the same training
            bound = 2.0**-9
        assert 0.0 <= distance(results, want) <= bound
        for name in want:
            if name.startswith("history"):
                digits = {"half": 1e-2}.get(case, 1e-4 if dtype == "float32" else 1e-11)
                np.testing.assert_allclose(results[name], want[name], rtol=digits, atol=digits, err_msg=name)


@pytest.mark.parametrize("case", trainings.CASES)
def test_several_ranks_learn_what_one_process_does(
    ranks: tuple[int, Path], alone: dict[tuple[str, str], Results], case: str
) -> None:
    n, folder = ranks
    found = {dtype: read(folder, case, dtype, 0) for dtype in ("float32", "float64")}
    check(case, found, alone)
    for dtype, want in found.items():
        for rank in range(1, n):
            for name, value in read(folder, case, dtype, rank).items():
                np.testing.assert_array_equal(value, want[name], err_msg=f"{name} of rank {rank}")


@pytest.mark.parametrize(
    ("backend", "how", "cases"),
    [
        ("torch", "mpi", ("weighted", "few_rows", "few_rows_pure")),
        ("torch", "group", ("weighted", "few_rows", "few_rows_pure")),
        ("array_api_strict", "mpi", ("weighted", "few_rows", "few_rows_pure")),
        ("jax", "mpi", ("few_rows", "accumulated")),  # the second is compiled
    ],
)
def test_other_libraries_do_too(backend: str, how: str, cases: tuple[str, ...], tmp_path: Path) -> None:
    launching.mpiexec()
    try:
        get_backend(backend)
    except BackendError as error:
        if backend in REQUIRED:
            raise
        pytest.skip(str(error))
    done = launching.run(2, "-m", "tests.training.distributed.trainings", str(tmp_path), how, backend, *cases)
    assert done.status == 0, done.said
    alone: dict[tuple[str, str], Results] = {}
    for case in cases:
        check(case, {dtype: read(tmp_path, case, dtype, 1) for dtype in ("float32", "float64")}, alone)
