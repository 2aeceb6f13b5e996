"""A generator beside a device that draws by itself; apart, as a subclass of NumPy's imports all of ``numpy.random``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dense_xp.support.seeds import Draw


class SkippingGenerator(np.random.Generator):
    """A generator that goes on past the numbers which a device can draw by itself; for all others it is what it was.

    It shares the state of the one that it is made from, which is a ``PCG64``.
    """

    def at_least(self, bound: float, shape: tuple[int, ...]) -> Draw:
        """Skip uniform numbers; return what they were to be compared with, and the state from which they come."""
        before: Any = self.bit_generator.state
        own = before["state"]
        self.bit_generator.advance(math.prod(shape))  # type: ignore[attr-defined]
        if before["has_uint32"] or before["uinteger"]:  # half of a number that was drawn before is still to come
            kept = {key: before[key] for key in ("has_uint32", "uinteger")}
            self.bit_generator.state = {**self.bit_generator.state, **kept}
        halves = [half for name in ("state", "inc") for half in (own[name] >> 64, own[name] & (1 << 64) - 1)]
        high, low, c_high, c_low = (half - (half >> 63 << 64) for half in halves)
        return Draw(bound, shape, (high, low, c_high, c_low))
