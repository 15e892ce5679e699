"""Operations that keep other tensors on the meta device than on the device that trains.

Torch chooses some kernels by device, and on the meta device it chooses the unfused ones. The
choice is made here as torch 2.13 makes it on the device that trains:

=========  ============================  ====================================================
device     operation                     kept for the backward pass, besides its inputs
=========  ============================  ====================================================
``cpu``    attention, with dropout       unfused: ``tokens x tokens`` weights of every head
``cpu``    attention, without dropout    fused: output, log-sum-exp, the mask
``cuda``   attention                     fused (memory-efficient): the same
``cpu``    dropout                       a mask in the dtype of its input
``cuda``   dropout                       a mask of one byte an element
=========  ============================  ====================================================

Batches are padded, so there is a mask ``b x 1 x queries x keys`` for all layers, of one byte a
number where attention is fused, else in the dtype of the embeddings. From it fused attention makes
one in the dtype of the queries, which it keeps. Unfused attention (``eager``) is the model's own.
``flash_attention_2``, which takes no mask, keeps queries, keys and values as they are, the output
and the log-sum-exp.
"""

from __future__ import annotations

import sys
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from autopeft.workers.settings import Attention

Device = Literal["cpu", "cuda"]


class _FusedDropout(nn.Dropout):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        dropped: torch.Tensor = torch.native_dropout(input, self.p, self.training)[0]
        return dropped


def use_kernels_of(model: Any, device: Device, attention: Attention = "auto") -> None:
    """Make a transformers model on the meta device keep what ``device`` would keep.

    The model's config changes with it.

    Args:
        model: Built with ``sdpa`` or ``eager`` attention; with any other it keeps its own.
        device: Whose kernels.
        attention: ``flash_attention_2`` where that is to stand in for ``sdpa``.
    """
    from transformers import AttentionInterface, AttentionMaskInterface, masking_utils

    if masking_utils.find_packed_sequence_indices is not _packed_indices:
        _packed_indices.below = masking_utils.find_packed_sequence_indices
        masking_utils.find_packed_sequence_indices = _packed_indices
    model.trains_on = device  # methods whose build differs by device look for it
    if device == "cuda":
        for module in model.modules():
            if type(module) is nn.Dropout:
                module.__class__ = _FusedDropout
    fused, eager = f"autopeft_memory_{device}", "autopeft_memory_eager"
    if attention == "flash_attention_2":
        fused = "autopeft_memory_unmasked"
        AttentionInterface.register(fused, _flash_attention)
    else:
        kernels = {"cpu": _attention_on_cpu, "cuda": _attention_on_cuda}
        AttentionInterface.register(fused, kernels[device])
        AttentionMaskInterface.register(fused, _mask_of_bytes)
    AttentionInterface.register(eager, _own_attention)
    AttentionMaskInterface.register(eager, _mask_of_numbers)
    # The stacks of an encoder-decoder have configs of their own.
    for config in {id(c): c for m in model.modules() if (c := getattr(m, "config", None))}.values():
        built_with = getattr(config, "_attn_implementation", None)
        if built_with in ("sdpa", "eager"):
            config._attn_implementation = fused if built_with == "sdpa" else eager


class _PackedIndices:
    """Find packed examples by their positions; on the meta device there are none to find."""

    below: Any = None

    def __call__(self, position_ids: torch.Tensor) -> torch.Tensor | None:
        found: torch.Tensor | None = None
        if position_ids.device.type != "meta":
            found = self.below(position_ids)
        return found


_packed_indices = _PackedIndices()


def _attention_on_cpu(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Compute ``b x heads x tokens x head_size`` attention, given back as ``b x tokens x ...``."""
    key, value = _repeated(module, key), _repeated(module, value)
    mask = _mask(query, key, position_bias)
    if dropout > 0.0:
        output = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling
        )
    else:
        output = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, False, attn_mask=mask, scale=scaling
        )[0]
    return output.transpose(1, 2).contiguous(), None


def _attention_on_cuda(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: torch.Tensor | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    key, value = _repeated(module, key), _repeated(module, value)
    mask = _mask(query, key, position_bias).expand(-1, query.shape[1], -1, -1)
    output = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, True, dropout, False, scale=scaling
    )[0]
    return output.transpose(1, 2).contiguous(), None


def _own_attention(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Compute attention as the model's own file does."""
    return sys.modules[type(module).__module__].eager_attention_forward(module, *args, **kwargs)


def _mask_of_numbers(
    batch_size: int, q_length: int, kv_length: int, dtype: torch.dtype = torch.float32, **_: Any
) -> torch.Tensor:
    return torch.empty((batch_size, 1, q_length, kv_length), dtype=dtype, device="meta")


def _mask_of_bytes(batch_size: int, q_length: int, kv_length: int, **_: Any) -> torch.Tensor:
    return torch.empty((batch_size, 1, q_length, kv_length), dtype=torch.bool, device="meta")


def _flash_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    output: torch.Tensor = _Flash.apply(query, key, value)  # type: ignore[no-untyped-call]
    return output.transpose(1, 2).contiguous(), None


class _Flash(torch.autograd.Function):
    """Sizes of the kernels of flash-attn, with fewer heads of keys and values where so given."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        output = torch.empty_like(query)
        log_sum_exp = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, log_sum_exp)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _mask(
    query: torch.Tensor, key: torch.Tensor, position_bias: torch.Tensor | None
) -> torch.Tensor:
    """Return the numbers that fused attention adds; positions may have a bias in each head."""
    shape = (query.shape[0], 1, query.shape[2], key.shape[2])
    if position_bias is None:
        return query.new_empty(shape)
    return position_bias.new_empty((shape[0], position_bias.shape[1], *shape[2:]))


def _repeated(module: nn.Module, heads: torch.Tensor) -> torch.Tensor:
    """Copy key or value heads to one for each query head, as masked ``sdpa`` attention does."""
    groups = getattr(module, "num_key_value_groups", 1)
    return heads if groups == 1 else heads.repeat_interleave(groups, dim=1)
