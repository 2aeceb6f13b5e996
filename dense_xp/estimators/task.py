"""What a network learns: targets in its units, weights and a loss."""

from __future__ import annotations

import dataclasses
from typing import Any

from dense_xp.learning.losses import Loss


@dataclasses.dataclass
class Task:
    """What a network learns.

    Attributes
    ----------
    target, weight : numpy.ndarray
        In the form and the units in which it trains.
    loss : Loss
        What is minimised.
    learned : dict
        The attributes that ``fit`` sets once all went well.
    """

    target: Any
    weight: Any
    loss: Loss
    learned: dict[str, Any]
