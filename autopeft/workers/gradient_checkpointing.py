"""Gradient checkpointing of an injected model: each layer is computed twice, its output kept.

Chen et al. 2016 (arXiv 1604.06174), a segment being one transformer layer, without reentrance:
a layer then keeps what it needs even where nothing that trains lies below it, so the embeddings
need not be made to require gradients, and layers below the lowest adapted one are computed once.
Dropout draws the same numbers both times, so nothing changes but memory and time.

Of what PEFT's ``prepare_model_for_kbit_training`` does for quantised bases, the embeddings'
gradients are thus not needed, the base is frozen anyway, and its normalisations stay in half
precision: autocast computes them in float32.
"""

from __future__ import annotations

from typing import Any

from peft import PeftModel

from autopeft.errors import ModelError


def checkpoint_layers(model: Any) -> None:
    """Switch it on for an injected model, in place.

    Raises:
        ModelError: the model's architecture does not support it.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    try:
        base._activation_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise ModelError(
            f"{type(base).__name__} has no gradient checkpointing: {error}",
            hint="leave training.gradient_checkpointing out",
        ) from error
    base.disable_input_require_grads()
