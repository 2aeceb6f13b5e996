"""How often a training ends cleanly after one of its two ranks was killed at a random moment, and then goes on.

python -m tests.training.distributed.kills 50 [FOLDER]
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.training.distributed import launching

MODULE = "tests.training.distributed.faults"


def killed(folder: Path, rng: random.Random) -> bool:
    """Kill a rank some time after the first checkpoint; return whether all ended in time, with an error."""
    process = launching.start(2, "-m", MODULE, "slow", str(folder))
    assert process.stdout is not None
    told = ""
    while " on " not in told.partition("rank 1 is")[2]:  # which process is which rank
        told = process.stdout.readline()
        assert told, "it ended before training began"
    victim = int(told.partition(f"rank {rng.randrange(2)} is ")[2].split()[0])
    until = time.monotonic() + launching.DEADLINE
    while not (folder / "checkpoint.safetensors").exists() and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(rng.random() * 0.3)
    os.kill(victim, signal.SIGKILL)
    return launching.finished(process, 30.0).status != 0


def main(times: str, folder: str | None = None) -> None:
    """Print a line for each time, and the counts."""
    ended, resumed, rng = 0, 0, random.Random()
    with tempfile.TemporaryDirectory() as fallback:
        for i in range(int(times)):
            place = Path(folder or fallback) / str(i)
            place.mkdir(parents=True, exist_ok=True)
            clean = killed(place, rng)
            again = launching.run(2, "-m", MODULE, "resume", str(place)).status == 0
            ended, resumed = ended + clean, resumed + again
            print(f"{i + 1}: ended {clean}, resumed {again}", flush=True)
    print(f"{times} ranks killed: {ended} clean ends, {resumed} resumes")


if __name__ == "__main__":
    main(*sys.argv[1:])
