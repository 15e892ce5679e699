"""Prefix tuning for single layers (Li and Liang 2021, arXiv 2101.00190; P-tuning v2, 2110.07602).

An adapted attention layer with keys K and values V computes ``softmax(q [P_K; K]^T) [P_V; V]``
with learned P_K and P_V, drawn from a unit normal as PEFT draws them. They carry no position.

Where PEFT hands a prefix over as a cache of keys and values, this one is a child of the attention
layer and is prepended by the attention function: transformers looks that function up by the name
in the config, and ours calls the one that stood there. PEFT's prefix also shifts the positions of
the text by its length; this one leaves them.

Gated, it is UniPELT's (Mao et al. 2022, arXiv 2110.07577, section 3.2): a query token with the
layer input x sees ``g(x) P_K`` and ``g(x) P_V``, g(x) = sigmoid(w x + b), at first one half. The
authors' code takes the mean of g over a sequence, which would let a language model look ahead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from autopeft.workers.modules._blocks import Enter, Inside, InsidePart
from autopeft.workers.modules._bottleneck import Gate
from autopeft.workers.modules._framework import (
    MethodConfig,
    MethodTuner,
    register_method,
)
from autopeft.workers.modules._layers import Pool, dtype_of

_NAME = "autopeft_prefix_"
IMPLEMENTATIONS = ("sdpa", "eager")
#: What functions that stand in for ``sdpa`` on the meta device are called.
_STAND_IN = "autopeft_memory_"


@dataclass
class LayerPrefixConfig(MethodConfig):
    """Config of prefixes on single layers; ``target_modules`` are the attention layers.

    Attributes:
        prefix_length: Learned keys and values a layer.
        num_key_value_heads: Heads they are split into.
        head_size: Width of one head.
        width: Width of the attention layer's input, which a gate reads.
        gated: Whether a gate scales the prefix.
    """

    prefix_length: int = field(default=12, metadata={"help": "Learned keys and values."})
    num_key_value_heads: int = field(default=1, metadata={"help": "Heads of keys and values."})
    head_size: int = field(default=64, metadata={"help": "Width of one head."})
    width: int = field(default=768, metadata={"help": "Width of the attention layer's input."})
    gated: bool = field(default=False, metadata={"help": "Scale the prefix by a gate."})


class LayerPrefix(InsidePart):
    """The keys and values of one layer, each ``heads x length x head size``."""

    def __init__(self, base: nn.Module, config: LayerPrefixConfig, path: str, pool: Pool) -> None:
        super().__init__()
        size = (config.num_key_value_heads, config.prefix_length, config.head_size)
        self.keys = nn.Parameter(torch.randn(size))
        self.values = nn.Parameter(torch.randn(size))
        self.gate = Gate(config.width) if config.gated else None


class LayerPrefixLayer(Inside):
    """The child of an attention layer; for a gate it catches the attention layer's input."""

    def __init__(self, attribute: str, module: nn.Module) -> None:
        super().__init__(attribute, module)
        self.caught: Tensor | None = None
        self.handles.append(module.register_forward_pre_hook(Enter(self), with_kwargs=True))

    def enter(self, x: Tensor) -> None:
        """Keep the input until the attention function runs, where a gate will read it."""
        if any(part.gate is not None for part in self.active_parts()):
            self.caught = x

    def prefix(
        self, part: Any, module: nn.Module, key: Tensor, attention_mask: Tensor | None
    ) -> list[Tensor]:
        """Return keys and values to prepend, each ``batch x key-value heads x length x size``.

        Args:
            part: An active part of this layer.
            module: The attention layer.
            key: The layer's own keys.
            attention_mask: As :func:`attend` is given it.
        """
        pair = (part.keys, part.values)
        return [tensor.to(key.dtype).expand(len(key), -1, -1, -1) for tensor in pair]


class LayerPrefixTuner(MethodTuner):
    """Also lets the adapted layers call the attention function that knows of prefixes."""

    def _post_injection_hook(self, model: nn.Module, config: Any, adapter_name: str) -> None:
        for module in model.modules():
            if any(isinstance(child, LayerPrefixLayer) for child in module.children()):
                settings: Any = module.config
                name = settings._attn_implementation or "eager"
                if name.startswith(_NAME):
                    continue
                if name.startswith(_STAND_IN):
                    ALL_ATTENTION_FUNCTIONS.register(_NAME + name, partial(attend, name))
                elif name not in IMPLEMENTATIONS:
                    raise ValueError(
                        f"a prefix works with the attention {' or '.join(IMPLEMENTATIONS)}, "
                        f"the model uses {name!r}: load it with attn_implementation='sdpa'"
                    )
                settings._attn_implementation = f"{_NAME}{name}"


def attend(
    implementation: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> Any:
    """Prepend the active prefixes of an attention layer and call the function below.

    Args:
        implementation: ``sdpa`` or ``eager``.
        module: The attention layer.
        query: ``batch x heads x queries x size``.
        key: ``batch x key-value heads x keys x size``.
        value: As ``key``.
        attention_mask: None, or ``batch x 1 x queries x keys``, boolean or added to scores.
        kwargs: What else transformers hands to its attention functions.
    """
    below = _function(implementation, module)
    for holder, part in _active(module):
        prefix = holder.prefix(part, module, key, attention_mask)
        queries, keys, length = query.shape[2], key.shape[2], prefix[0].shape[2]
        if attention_mask is None and _is_causal(implementation, module, queries, kwargs):
            ones = torch.ones(queries, keys, dtype=torch.bool, device=query.device)
            attention_mask = ones.tril()[None, None]
        if part.gate is not None:
            assert holder.caught is not None
            gate, holder.caught = part.gate(holder.caught.to(dtype_of(part))), None
            return _gated(module, query, key, value, attention_mask, prefix, gate, **kwargs)
        key = torch.cat([prefix[0], key], dim=2)
        value = torch.cat([prefix[1], value], dim=2)
        if attention_mask is not None:
            seen = True if attention_mask.dtype == torch.bool else 0.0
            attention_mask = F.pad(attention_mask, (length, 0), value=seen)
        if kwargs.get("position_bias") is not None:
            kwargs["position_bias"] = F.pad(kwargs["position_bias"], (length, 0))
        kwargs["is_causal"] = False
    return below(module, query, key, value, attention_mask, **kwargs)


def _active(module: nn.Module) -> Iterator[tuple[LayerPrefixLayer, Any]]:
    """Yield the active parts inside an attention layer, each with the child that holds it."""
    for child in module.children():
        if isinstance(child, LayerPrefixLayer):
            for part in child.active_parts():
                yield child, part


def _is_causal(implementation: str, module: nn.Module, queries: int, kwargs: Any) -> bool:
    """Tell whether the function below would look back only, given no mask."""
    asked = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if asked is None else asked
    return implementation != "eager" and queries > 1 and bool(causal)


def _gated(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    prefix: list[Tensor],
    gate: Tensor,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attend where each query token scales the prefix by its own gate, ``batch x queries x 1``."""
    groups = query.shape[1] // key.shape[1]
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    (prefix_key, prefix_value), (key, value) = (
        [tensor.repeat_interleave(groups, dim=1) for tensor in pair]
        for pair in (prefix, (key, value))
    )
    gate = gate.to(query.dtype).unsqueeze(1)
    scores = scaling * query @ key.transpose(2, 3)
    front = gate * scaling * (query @ prefix_key.transpose(2, 3))
    if softcap is not None:
        scores, front = (softcap * torch.tanh(part / softcap) for part in (scores, front))
    if position_bias is not None:
        scores = scores + position_bias
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask[..., : key.shape[2]]
    weights = torch.cat([front, scores], dim=-1).softmax(dim=-1, dtype=torch.float32)
    weights = F.dropout(weights.to(query.dtype), p=dropout, training=module.training)
    length = front.shape[-1]
    output = gate * (weights[..., :length] @ prefix_value) + weights[..., length:] @ value
    return output.transpose(1, 2).contiguous(), weights


def _function(implementation: str, module: nn.Module) -> Callable[..., Any]:
    """Return the function that stood there; each model has an eager one of its own."""
    own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    function: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, own)
    return function


for _implementation in IMPLEMENTATIONS:
    ALL_ATTENTION_FUNCTIONS.register(_NAME + _implementation, partial(attend, _implementation))
    ALL_MASK_ATTENTION_FUNCTIONS.register(
        _NAME + _implementation, ALL_MASK_ATTENTION_FUNCTIONS[_implementation]
    )

register_method(
    "autopeft_layer_prefix",
    LayerPrefixConfig,
    LayerPrefix,
    tuner_class=LayerPrefixTuner,
    layer_class=LayerPrefixLayer,
)
