"""Seeds for one purpose each, so that what draws in one place changes nothing in another."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return an independent 63-bit seed for a purpose; equal in any process."""
    words = [zlib.crc32(p.encode()) if isinstance(p, str) else p for p in purpose]
    state = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


@contextmanager
def seeded(seed: int, *purpose: str) -> Iterator[None]:
    """Draw from a seed of its own and leave the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        # PEFT draws on the CPU and moves the result to the base layer's device.
        torch.default_generator.manual_seed(derive_seed(seed, *purpose))
        yield
