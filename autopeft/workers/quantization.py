"""Frozen weights in 4 or 8 bits: what bitsandbytes is told, what it stores, and what is shared.

4 bits are NF4 in blocks of 64 with double quantisation (Dettmers et al. 2023, QLoRA, arXiv
2305.14314); 8 bits are rows of integers with one scale each (Dettmers et al. 2022, LLM.int8(),
arXiv 2208.07339). Both run on the CPU too.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from autopeft.errors import ModelError
from autopeft.workers.model_sources import ModelSource

#: Weights that share a scale, and scales that share a scale of their own.
BLOCK, NESTED_BLOCK = 64, 256
_FLOAT32 = 4
#: What each weight in 4 bits has of its own: the 16 values of NF4, the 256 values that its scales
#: are rounded to, and their offset.
_TABLES = (16 + 256 + 1) * _FLOAT32


def check_can_quantize(quantization: str | None) -> None:
    """Make sure that frozen weights can be stored in 4 or 8 bits here; None is always fine.

    Raises:
        ModelError: bitsandbytes is missing.
    """
    if quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"model.quantization is {quantization}, which needs the package bitsandbytes",
            hint="pip install 'autopeft[quantization]', or leave model.quantization out",
        )


def quantization_arguments(
    source: ModelSource, device: str | torch.device, kept: Sequence[str]
) -> dict[str, Any]:
    """Return what ``from_pretrained`` needs to store the frozen linear layers in few bits.

    Args:
        source: Says how many bits, if any.
        device: Where the model will be.
        kept: Paths of modules that stay as they are, see :func:`kept_modules`.

    Raises:
        ModelError: bitsandbytes is missing.
    """
    if source.quantization is None:
        return {}
    check_can_quantize(source.quantization)
    from transformers import BitsAndBytesConfig

    if source.quantization == "8bit":
        settings = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(kept))
    else:
        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            # Products over quantised weights run under autocast, see `training.autocast`.
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=list(kept),
        )
    return {"quantization_config": settings, "device_map": {"": torch.device(device)}}


def kept_modules(model: Any, head: Sequence[str]) -> tuple[str, ...]:
    """Return the paths of modules that are never quantised: the task head and the output layer.

    Args:
        model: Not quantised; may live on the meta device.
        head: Paths of the task head.
    """
    output = model.get_output_embeddings()
    paths = (path for path, module in model.named_modules() if module is output)
    return tuple(dict.fromkeys((*head, *paths)))


def quantized_weights(model: Any, head: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Yield path, output and input width of each layer that transformers would quantise.

    Args:
        model: Not quantised, without adapters; may live on the meta device.
        head: Paths of the task head.
    """
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.quantizers_utils import should_convert_module

    kept = [*kept_modules(model, head), *(getattr(model, "_keep_in_fp32_modules", None) or ())]
    for path, module in model.named_modules():
        if not should_convert_module(path, kept):
            continue
        # As `replace_with_bnb_linear` of transformers asks: subclasses are left as they are.
        if isinstance(module, Conv1D):
            yield path, module.weight.shape[1], module.weight.shape[0]
        elif type(module) is torch.nn.Linear:
            yield path, module.out_features, module.in_features


def stored_bytes(quantization: str, out_features: int, in_features: int) -> int:
    """Return the bytes of one quantised weight with its scales."""
    size = out_features * in_features
    if quantization == "8bit":
        return size + _FLOAT32 * out_features
    blocks = math.ceil(size / BLOCK)
    scales = blocks + _FLOAT32 * math.ceil(blocks / NESTED_BLOCK)
    return math.ceil(size / 2) + scales + _TABLES


def settle(model: Any) -> Any:
    """Make a quantised model one whose frozen weights stay as they are, in place; return it.

    What bitsandbytes does in a forward pass beside computing, and is left out:

    * On CPUs with bfloat16 instructions it rewrites 4-bit weights and scales for its own kernel
      at the first evaluation, and rounds the scales to bfloat16.
    * It rounds biases to the type of the input, for good, also those that train.

    Scores would depend on what a model computed before, and on the machine.
    """
    four, eight = _settled_layers()
    for module in model.modules():
        for settled in (four, eight):
            if type(module) is settled.__mro__[1]:
                module.__class__ = settled
    return model


@functools.cache
def _settled_layers() -> tuple[type, type]:
    """Return the layers of bitsandbytes for 4 and 8 bits, changed as :func:`settle` says."""
    import bitsandbytes

    library: Any = bitsandbytes

    class Settled4bit(library.nn.Linear4bit):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inputs = x.to(self.compute_dtype)
            bias = None if self.bias is None else self.bias.to(inputs.dtype)
            state = self.weight.quant_state
            product = library.matmul_4bit(inputs, self.weight, bias=bias, quant_state=state)
            output: torch.Tensor = product.to(x.dtype)
            return output

    class Settled8bit(library.nn.Linear8bitLt):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.state.is_training = self.training
            if self.weight.CB is not None:
                scales = self.state.SCB
                self.init_8bit_state()
                if self.state.SCB is None:  # DoRA in PEFT moves the weight without them
                    self.state.SCB = scales
            bias = None if self.bias is None else self.bias.to(x.dtype)
            output: torch.Tensor = library.matmul(x, self.weight, bias=bias, state=self.state)
            return output

    return Settled4bit, Settled8bit


def scales_of(model: Any) -> dict[int, Any]:
    """Return what quantised layers keep beside their weights, by ``id``, for ``copy.deepcopy``.

    Given as its memo, a copy of the model shares these with it. Nothing writes into them once
    the model is settled.
    """
    held: list[Any] = []
    for module in model.modules():
        held.append(getattr(module, "quant_state", None))
        state = getattr(module, "state", None)
        held += [getattr(state, "CB", None), getattr(state, "SCB", None)]
    return {id(each): each for each in held if each is not None}
