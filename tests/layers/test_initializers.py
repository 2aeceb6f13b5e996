"""Where weights start: the right spread, the same bits from the same seed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dense_xp import Constant, FanInUniform, HeNormal, Orthogonal, RandomNormal, RandomUniform, Zeros
from dense_xp.layers.initializers import INITIALIZERS, get_initializer, initializer_config

N_IN, N_OUT = 300, 500
N = N_IN * N_OUT

# the variance of each rule, and for uniform draws the limit, √(3 · variance)
VARIANCES = {
    "random_uniform": 0.1**2 / 12,
    "random_normal": 0.05**2,
    "fan_in_uniform": 1 / (3 * N_IN),
    "glorot_uniform": 2 / (N_IN + N_OUT),
    "glorot_normal": 2 / (N_IN + N_OUT),
    "he_uniform": 2 / N_IN,
    "he_normal": 2 / N_IN,
    "lecun_uniform": 1 / N_IN,
    "lecun_normal": 1 / N_IN,
}


@pytest.mark.parametrize("name", VARIANCES)
@pytest.mark.parametrize("global_state", [False, True])
def test_mean_variance_and_shape_of_the_distribution(name: str, global_state: bool) -> None:
    """Bounds of five standard deviations of each statistic, from the moments of the distribution."""
    np.random.seed(1)
    W = get_initializer(name)((N_IN, N_OUT), np.random if global_state else np.random.default_rng(0))
    variance, uniform = VARIANCES[name], name.endswith("uniform")
    assert W.shape == (N_IN, N_OUT)
    assert W.dtype == np.float64
    assert abs(W.mean()) < 5 * math.sqrt(variance / N)
    kurtosis = 9 / 5 if uniform else 3.0
    assert abs(W.var() / variance - 1) < 5 * math.sqrt((kurtosis - 1) / N)
    assert abs(np.mean(W**4) / variance**2 / kurtosis - 1) < 0.05
    if uniform:
        assert 0.999 < np.abs(W).max() / math.sqrt(3 * variance) <= 1


def test_the_default_is_the_draw_of_the_reference() -> None:
    np.random.seed(3)
    expected = np.random.uniform(-1 / math.sqrt(7), 1 / math.sqrt(7), (7, 2))
    np.random.seed(3)
    np.testing.assert_array_equal(FanInUniform()((7, 2), np.random), expected)


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (4, 4), (1, 5)])
def test_orthonormal_rows_or_columns(shape: tuple[int, int]) -> None:
    W = Orthogonal(2.0)(shape, np.random.default_rng(0))
    assert W.shape == shape
    product = W.T @ W if shape[0] >= shape[1] else W @ W.T
    np.testing.assert_allclose(product, 4 * np.eye(min(shape)), atol=1e-13)


def test_orthogonal_draws_prefer_no_sign() -> None:
    """Without the signs of R's diagonal, the first entry of every draw would be negative."""
    signs = [np.sign(Orthogonal()((3, 3), np.random.default_rng(seed))[0, 0]) for seed in range(40)]
    assert 8 <= signs.count(1.0) <= 32


def test_constants_and_given_limits() -> None:
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(Zeros()((2, 3), rng), np.zeros((2, 3)))
    np.testing.assert_array_equal(Constant(0.25)((2, 3), rng), np.full((2, 3), 0.25))
    W = RandomUniform(2.0, 3.0)((100, 100), rng)
    assert 2 <= W.min() < 2.01
    assert 2.99 < W.max() < 3
    W = RandomNormal(5.0, 0.1)((100, 100), rng)
    assert W.mean() == pytest.approx(5, abs=0.005)
    assert W.std() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("name", [name for name in INITIALIZERS if name not in ("zeros", "constant", "each_member")])
def test_one_seed_one_draw(name: str) -> None:
    draws = [get_initializer(name)((5, 4), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.any(draws[0] != draws[2])


@pytest.mark.parametrize("name", [name for name in INITIALIZERS if name not in ("constant", "each_member")])
def test_names_go_there_and_back(name: str) -> None:
    assert initializer_config(get_initializer(name)) == name
    assert repr(get_initializer(name)).endswith(")")


@pytest.mark.parametrize(
    "initializer", [Orthogonal(2.0), Constant(3.0), RandomNormal(std=1.0), RandomUniform(-1.0, 1.0)]
)
def test_arguments_go_there_and_back(initializer: Any) -> None:
    config = initializer_config(initializer)
    assert isinstance(config, dict)
    assert get_initializer(config) == initializer


def test_a_function_is_an_initializer() -> None:
    def ones(shape: Any, rng: Any) -> Any:
        return np.ones(shape)

    assert get_initializer(ones) is ones
    assert initializer_config(ones) is ones


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("he_norml", ValueError, "did you mean 'he_normal'"),
        ("zzz", ValueError, "Known: zeros, constant"),
        ("constant", ValueError, r"pass Constant\(value\)"),
        ({"name": "zzz"}, ValueError, "unknown initializer 'zzz'"),
        (HeNormal, TypeError, r"pass HeNormal\(\.\.\.\)"),
        (3, TypeError, "an initializer is a name or a function"),
    ],
)
def test_what_is_no_initializer(spec: Any, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        get_initializer(spec)
