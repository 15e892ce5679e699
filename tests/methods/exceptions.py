"""What the contract suite does not ask of a method, all of it, each with its reason."""

from __future__ import annotations

from collections.abc import Mapping

#: Parts of names of trained parameters that may have no gradient after two steps, by method.
ZERO_GRADIENT: Mapping[str, tuple[str, ...]] = {
    # Only the two best vectors of a sub-vector get a gradient (top-k selection).
    "vblora": ("vblora_logits", "vblora_vector_bank"),
    # The factors of a value that has been pruned to zero.
    "adalora": ("lora_A", "lora_B"),
}

#: Parts of names of trained parameters that get no gradient tensor at all, by method.
NO_GRADIENT: Mapping[str, tuple[str, ...]] = {
    # The state that the last block hands on is read by nobody.
    "shadow": ("layers.1.shadow_update",),
}

#: Largest difference of outputs after merging, relative to their spread; 1e-4 where not named.
MERGE_TOLERANCE: Mapping[str, float] = {}
DEFAULT_MERGE_TOLERANCE = 1e-4

#: Largest difference of outputs at the start, relative to their spread; 1e-5 where not named.
START_TOLERANCE: Mapping[str, float] = {}
DEFAULT_START_TOLERANCE = 1e-5

#: Kinds of models that a method is offered on, where it is not on all three.
ONLY_ON: Mapping[str, frozenset[str]] = {
    "adaption-prompt": frozenset({"decoder"}),  # PEFT knows the attention of a few decoders
    "beft": frozenset({"encoder", "decoder"}),  # T5 has no biases
    "bias": frozenset({"encoder", "decoder"}),  # the same
    "conv-adapter": frozenset(),  # images and sounds
    "dept": frozenset({"encoder", "decoder"}),  # one sequence of tokens
    "frod": frozenset({"encoder", "decoder"}),  # one stack of layers
    "iapt": frozenset({"encoder"}),  # reads the whole input before it answers
    "lily": frozenset({"encoder", "decoder"}),  # one stack of layers
    "shadow": frozenset({"decoder"}),  # PEFT knows a few decoders
}
