"""Layers: the contract, and one file for each kind.

All kinds are imported together, because a configuration may name any of them.
"""

from dense_xp.layers import (  # noqa: F401
    activations,
    chain,
    dense,
    dropout,
    ensemble,
    lora,
    normalization,
    piecewise,
    quantization,
    scaling,
)
