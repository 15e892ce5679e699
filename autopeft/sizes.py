"""Sizes as people write them: ``24GiB``, ``80 GB``, ``2M``."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"\s*(\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_BYTES = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", start=1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", start=1)},
}
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}


#: A number of bytes below this without a unit is more likely one whose unit was forgotten.
LEAST_WITHOUT_UNIT = 2**20


def parse_bytes(text: str) -> int:
    """Read a number of bytes such as ``24GiB``, ``80 GB`` or ``16000000000``.

    Raises:
        ValueError: it is none, or not above zero; says what was expected.
    """
    value = _value(text, _BYTES)
    if value is None:
        raise ValueError(
            f"expected a size such as 24GiB or 80GB, got {text!r} (1 GiB is 1024 MiB, 1 GB is "
            "1000 MB)"
        )
    if text.strip().replace(".", "").isdigit() and value < LEAST_WITHOUT_UNIT:
        raise ValueError(
            f"expected a size with its unit such as 24GiB or 80GB, got {text!r}, which is "
            f"{text.strip()} bytes"
        )
    return int(value + 0.5)


def parse_count(text: str) -> float:
    """Read a number such as ``2M``, ``500k`` or ``0.25``.

    Raises:
        ValueError: it is none, or not above zero; says what was expected.
    """
    value = _value(text, _COUNTS)
    if value is None:
        raise ValueError(f"expected a number such as 2M, 500k or 0.25, got {text!r}")
    return value


def _value(text: str, units: dict[str, int]) -> float | None:
    match = _NUMBER.fullmatch(text)
    if match is None or match[2].casefold() not in units:
        return None
    value = float(match[1]) * units[match[2].casefold()]
    return value if value > 0 else None
