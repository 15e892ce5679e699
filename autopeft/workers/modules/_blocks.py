"""How a part of a method sits on a whole block of a model, or inside one of its modules.

A block (an attention layer, a feed-forward layer) has layers inside that other methods still need
to find under their names, so nothing takes its place. :class:`Beside` is a child of the module
that ends the block and works through hooks; :class:`Inside` is a child of a module whose code
looks for it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autopeft.workers.modules._layers import MethodLayer, Sharing, dtype_of

Tensor = torch.Tensor


class BlockPart(Sharing):
    """What one method adds to the output of one block; a subclass has the contract of Part.

    ``base`` in ``__init__`` is the module that ends the block. ``width`` of the block is in
    the config where a method needs it (see ``_framework.BlockConfig``).
    """

    def forward(self, output: Tensor, block_input: Tensor) -> Tensor:
        """Return the new output of the block.

        Args:
            output: ``... x width``, the block's output before it is added to the residual.
            block_input: ``... x width``, what entered the block; ``output`` itself where the
                config names no input.
        """
        raise NotImplementedError


class ChildLayer(MethodLayer):
    """A layer of PEFT that stands in the place of no other: it has no weight of its own."""

    @property
    def weight(self) -> Tensor:
        """There is none; PEFT asks."""
        raise AttributeError("weight")

    @property
    def bias(self) -> Tensor:
        """There is none; PEFT asks."""
        raise AttributeError("bias")

    def __init__(self, attribute: str) -> None:
        super().__init__(attribute)
        self.handles: list[Any] = []

    def remove(self) -> None:
        """Take the hooks away; the model then computes as if the parts were not there."""
        for handle in self.handles:
            handle.remove()


class Beside(ChildLayer):
    """Parts at the end of a block: a child of the module that ends it, run by its hook.

    The block's input is caught by a hook of the module that begins it and kept until the block
    ends, in the forward pass and again when checkpointing computes it anew.
    """

    def __init__(self, attribute: str, end: nn.Module, begin: nn.Module | None = None) -> None:
        super().__init__(attribute)
        self._caught: list[Tensor] = []
        self.handles.append(end.register_forward_hook(Leave(self)))
        if begin is not None:
            catch = begin.register_forward_pre_hook(Enter(self), with_kwargs=True)
            self.handles.append(catch)

    def enter(self, x: Tensor) -> None:
        """Keep the input of the block."""
        self._caught[:] = [x] if any(True for _ in self.active_parts()) else []

    def leave(self, output: Tensor) -> Tensor:
        """Return what the parts make of the output of the block."""
        caught = self._caught.pop() if self._caught else output
        for part in self.active_parts():
            dtype = dtype_of(part)
            output = part(output.to(dtype), caught.to(dtype)).to(output.dtype)
        return output


class InsidePart(Sharing):
    """What one method adds inside a module whose code it takes part in by a way of its own.

    The part is a child of that module, under ``<method>_block``; who runs it is the method's
    affair (``layer_prefix``: the attention function that transformers calls).
    """


class Inside(ChildLayer):
    """Parts inside a module: its child, run by whoever the method has look for it."""

    def __init__(self, attribute: str, module: nn.Module) -> None:
        super().__init__(attribute)


class Enter:
    """Hook of the module that begins a block (an object, so that copies of the model copy it)."""

    def __init__(self, beside: Any) -> None:
        self.beside = beside

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        values = (*args, kwargs.get("hidden_states"), *kwargs.values())
        self.beside.enter(next(value for value in values if isinstance(value, Tensor)))


class Leave:
    """Hook of the module that ends a block."""

    def __init__(self, beside: Beside) -> None:
        self.beside = beside

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (self.beside.leave(output[0]), *output[1:])
        return self.beside.leave(output)
