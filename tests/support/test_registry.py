"""Things by name: made from plain values, written as plain values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dense_xp import ELU, L2, Adam, CosineSchedule, Huber, MaxNorm, ReLU, SoftOrthogonality, WarmUp
from dense_xp.layers.activations import ACTIVATIONS, activation_config, get_activation
from dense_xp.layers.initializers import INITIALIZERS, Constant, Orthogonal
from dense_xp.learning.constraints import CONSTRAINTS
from dense_xp.learning.named_losses import LOSSES
from dense_xp.learning.optimizers import OPTIMIZERS, SGD
from dense_xp.learning.regularizers import REGULARIZERS
from dense_xp.support.registry import Registry

ALL: tuple[Registry[Any], ...] = (LOSSES, OPTIMIZERS, REGULARIZERS, CONSTRAINTS, INITIALIZERS)


@pytest.mark.parametrize("registry", ALL, ids=lambda registry: registry.kind)
def test_each_is_made_by_name_and_written_as_its_name(registry: Registry[Any]) -> None:
    for name, kind in registry.items():
        if name not in ("constant", "each_member"):  # which need arguments
            made = registry.made(name)
            assert type(made) is kind
            assert registry.written(made) == next(
                first for first, same in registry.items() if same is kind
            )  # not a short one
            assert registry.made(made) is made


@pytest.mark.parametrize(
    ("registry", "thing", "plain"),
    [
        (REGULARIZERS, L2(0.5), {"name": "l2", "factor": 0.5}),
        (REGULARIZERS, SoftOrthogonality(), "soft_orthogonality"),
        (CONSTRAINTS, MaxNorm(3.0), {"name": "max_norm", "limit": 3.0}),
        (INITIALIZERS, Orthogonal(2.0), {"name": "orthogonal", "gain": 2.0}),
        (INITIALIZERS, Constant(0.5), {"name": "constant", "value": 0.5}),
        (LOSSES, Huber(2.0), {"name": "huber", "delta": 2.0}),
    ],
)
def test_plain_values_come_back(registry: Registry[Any], thing: Any, plain: Any) -> None:
    assert registry.written(thing) == plain
    assert registry.made(json.loads(json.dumps(plain))) == thing


def test_what_is_in_a_file_is_written_in_full_with_what_is_inside() -> None:
    rules: Registry[Any] = Registry(
        "rule", {kind.__name__: kind for kind in (Adam, WarmUp, CosineSchedule)}, "a rule", key="class", brief=False
    )
    optimizer = Adam(WarmUp(CosineSchedule(0.1, 30), 5))
    plain = rules.written(optimizer)
    schedule = {"class": "CosineSchedule", "learning_rate": 0.1, "steps": 30, "end": 0.0}
    assert plain == {
        "class": "Adam",
        "learning_rate": {"class": "WarmUp", "after": schedule, "steps": 5, "start": 0.0},
        "weight_decay": 0.0,
        "no_decay": (),
        "clip_norm": None,
        "clip_value": None,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "epsilon": 1e-8,
    }
    assert rules.made(json.loads(json.dumps(plain))) == optimizer
    assert rules.written(SGD()) == SGD()  # not one of these: as it is
    with pytest.raises(TypeError, match="a rule is a name or a rule, and this is 3"):
        rules.made(3)


def test_activations_are_layers() -> None:
    assert activation_config(ReLU()) == "relu"
    assert get_activation(activation_config(ELU(2.0))).get_config() == ELU(2.0).get_config()  # type: ignore[union-attr]
    assert all(type(get_activation(name)) is kind for name, kind in ACTIVATIONS.items())


@pytest.mark.parametrize("registry", ALL, ids=lambda registry: registry.kind)
def test_errors_name_the_kind_and_the_remedy(registry: Registry[Any]) -> None:
    article = "an" if registry.kind[0] in "io" else "a"
    kind = next(iter(registry.values()))
    known = ", ".join(registry)
    with pytest.raises(ValueError, match=rf"^unknown {registry.kind} '#'\. Known: {known}, or "):
        registry.made("#")
    with pytest.raises(ValueError, match=f"^unknown {registry.kind} 'zz'"):
        registry.made({"name": "zz"})
    with pytest.raises(ValueError, match=f"^unknown {registry.kind} 3"):
        registry.made({"name": 3})
    with pytest.raises(
        TypeError, match=rf"^{article} {registry.kind} is a name or .*: pass {kind.__name__}\(\.\.\.\)$"
    ):
        registry.made(kind)
    for wrong in (3, None, {}, {"factor": 0.5}):
        with pytest.raises(TypeError, match=rf"^{article} {registry.kind} is a name or .*, and this is "):
            registry.made(wrong)
