"""What the contract suite does not ask of a method, all of it, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping

#: Parts of names of trained parameters that may have no gradient after two steps, by method.
ZERO_GRADIENT: Mapping[str, tuple[str, ...]] = {
    # Only the two best vectors of a sub-vector get a gradient (top-k selection).
    "vblora": ("vblora_logits", "vblora_vector_bank"),
}

#: Largest difference of outputs after merging, relative to their spread; 1e-4 where not named.
MERGE_TOLERANCE: Mapping[str, float] = {}
DEFAULT_MERGE_TOLERANCE = 1e-4

#: Largest difference of outputs at the start, relative to their spread; 1e-5 where not named.
START_TOLERANCE: Mapping[str, float] = {}
DEFAULT_START_TOLERANCE = 1e-5
