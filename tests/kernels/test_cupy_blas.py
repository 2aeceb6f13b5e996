"""Products by cuBLAS itself: every way in which the factors may lie in memory, and the precision that was set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dense_xp.backend import get_backend, to_numpy, use_backend
from tests.conftest import REQUIRED
from tests.kernels.kernel_sets import kernel_set

RNG = np.random.default_rng(0)


@pytest.fixture(params=["cupy", "cupy on the host"])
def blas(request: pytest.FixtureRequest) -> Iterator[Any]:
    module, chosen = kernel_set(request.param)
    with use_backend(chosen), chosen.scope():
        products, why = module.blas()
        if products is None and "cupy" not in REQUIRED:
            pytest.skip(why)
        yield products


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "sizes", [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 5), (1, 4, 1), (3, 1, 1), (1, 1, 1)]
)
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
def test_products(blas: Any, sizes: tuple[int, int, int], transposed: tuple[bool, bool], dtype: str) -> None:
    put = get_backend().asarray
    m, k, n = sizes
    A, B = RNG.normal(size=(m, k)).astype(dtype), RNG.normal(size=(k, n)).astype(dtype)
    placed = [put(x.T.copy()).T if flag else put(x) for x, flag in zip((A, B), transposed, strict=True)]
    out = get_backend().xp.empty((m, n), dtype=placed[0].dtype)
    blas.product(*placed, out)
    np.testing.assert_allclose(to_numpy(out), A @ B, rtol=1e-5, atol=1e-6)


def test_parts_of_arrays(blas: Any) -> None:
    put = get_backend().asarray
    A, B = RNG.normal(size=(7, 9)), RNG.normal(size=(7, 5))
    out = put(np.zeros((6, 5)))
    blas.product(put(A).T[2:6, :], put(B), out[1:5, :])
    np.testing.assert_allclose(to_numpy(out)[1:5], A.T[2:6] @ B, rtol=1e-12)
    assert not to_numpy(out)[[0, 5]].any()
    blas.product(put(A)[:, 2:6], put(B)[1:5, :], wide := put(np.zeros((7, 5))))
    np.testing.assert_allclose(to_numpy(wide), A[:, 2:6] @ B[1:5], rtol=1e-12)


def test_what_has_no_contiguous_lines_is_refused(blas: Any) -> None:
    put = get_backend().asarray
    with pytest.raises(ValueError, match="neither the rows nor the columns"):
        blas.product(put(np.ones((4, 4)))[::2, ::2], put(np.ones((2, 2))), put(np.ones((2, 2))))


def test_the_precision_follows_the_setting(blas: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUPY_TF32", raising=False)
    names = ("float32", "float64", "float16", "bfloat16")
    assert [blas._compute_type(name) for name in names] == [68, 70, 68, 68]
    monkeypatch.setenv("CUPY_TF32", "1")
    assert [blas._compute_type(name) for name in names] == [77, 70, 68, 68]


def test_a_stream_has_its_own_handle_and_workspace(blas: Any) -> None:
    first = blas.handle()
    assert blas.handle() is first
    with blas.cupy.cuda.Stream(non_blocking=True):
        second = blas.handle()
    assert second is not first
    assert second.workspace.ptr != first.workspace.ptr
