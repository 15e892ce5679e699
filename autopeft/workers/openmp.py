"""How PyTorch's threads wait for each other; to be said before PyTorch is loaded."""

from __future__ import annotations

import os

#: Threads that wait sleep instead of spinning. A spinning thread holds the core that the thread
#: it waits for needs, as soon as anything else runs on the machine: with one busy process beside
#: it on 2 cores, a training step of MiniLM took 3.6 s spinning and 0.3 s sleeping.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}


def share_cores() -> None:
    """Let this process, and those it starts, share cores well; a user's own setting wins."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
