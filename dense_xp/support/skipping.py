"""A generator for devices that draw numbers themselves; in its own module, as it imports all of ``numpy.random``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dense_xp.support.seeds import Draw


class SkippingGenerator(np.random.Generator):
    """A generator that skips the numbers which a device can draw itself, and draws all others.

    It shares the state of the ``PCG64`` that it is made from.
    """

    def at_least(self, bound: float, shape: tuple[int, ...]) -> Draw:
        """Skip uniform numbers; return their bound, their shape and the state from which they are drawn."""
        before: Any = self.bit_generator.state
        own = before["state"]
        self.bit_generator.advance(math.prod(shape))  # type: ignore[attr-defined]
        if before["has_uint32"] or before["uinteger"]:  # half of the last 64-bit number has not been used yet
            kept = {key: before[key] for key in ("has_uint32", "uinteger")}
            self.bit_generator.state = {**self.bit_generator.state, **kept}
        halves = [half for name in ("state", "inc") for half in (own[name] >> 64, own[name] & (1 << 64) - 1)]
        high, low, c_high, c_low = (half - (half >> 63 << 64) for half in halves)
        return Draw(bound, shape, (high, low, c_high, c_low))
