"""Ask once whether the model hub answers, so that its absence costs seconds and no noise.

huggingface_hub repeats every request several times with growing pauses. Where the hub does not
answer at all, half a minute passes for each file before the cache is looked at.
"""

from __future__ import annotations

import time

#: Seconds to wait for an answer.
TIMEOUT_SECONDS = 5.0
#: Seconds for which an answer holds; a hub that answered once is asked no more.
_MEMORY_SECONDS = 60.0

_last_answer: tuple[bool, float] | None = None


def is_hub_reachable() -> bool:
    """Tell whether the hub that huggingface_hub is set to answers; False in its offline mode.

    Proxies and the endpoint are those of huggingface_hub. Any answer counts, an error too.
    """
    global _last_answer
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    now = time.monotonic()
    if _last_answer is None or (not _last_answer[0] and now - _last_answer[1] > _MEMORY_SECONDS):
        _last_answer = _ask(constants.ENDPOINT), now
    return _last_answer[0]


def _ask(endpoint: str) -> bool:
    from huggingface_hub import get_session

    try:
        get_session().head(endpoint, timeout=TIMEOUT_SECONDS)
    except Exception:  # whatever the client raises, the hub gave no answer
        return False
    return True
