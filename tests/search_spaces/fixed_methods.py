"""One module of each of two methods, so that nothing varies but what a test makes vary."""

from __future__ import annotations

from typing import Any

METHODS: dict[str, Any] = {
    "lora": {
        "rank": 4,
        "alpha_ratio": 1,
        "sites": "all",
        "dora": False,
        "rslora": False,
        "placement": "all",
        "learning_rate": 0.001,
    },
    "prefix": {"prefix_length": 4, "learning_rate": 0.01},
}
