"""Layers: the contract, and one file for each kind.

All kinds are imported with the first of them, as a configuration names any.
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
