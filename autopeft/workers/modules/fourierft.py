"""FourierFT without weights: which frequencies train is drawn, and does not matter to shapes."""

from __future__ import annotations

from autopeft.workers.modules._shapes_only import NoPermutations


def on_meta() -> NoPermutations:
    """Build layers whose frequencies have a shape and no numbers."""
    return NoPermutations()
