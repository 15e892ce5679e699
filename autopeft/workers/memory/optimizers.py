"""What an optimiser adds to memory: its state, and what one of its steps needs for a moment.

Read off the implementations: torch 2.13 (``torch.optim``), bitsandbytes 0.50 (8-bit AdamW) and
PEFT 0.21 (``peft.optimizers.lorafa``). On CUDA torch updates all parameters of a group at once
(``foreach``), so that a temporary is as large as all of them; on the CPU one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.memory.kernels import Device

_FLOAT32 = 4
#: Numbers that bitsandbytes quantises together, with one float32 scale.
_BLOCK = 256
#: Smaller parameters keep float32 states in bitsandbytes' 8-bit optimisers.
_SMALLEST_IN_8_BITS = 4096


@dataclass(frozen=True, slots=True)
class Trained:
    """A tensor that trains.

    Attributes:
        shape: Its extents.
        itemsize: Bytes of a number.
    """

    shape: tuple[int, ...]
    itemsize: int

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return self.size * self.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """An optimiser's memory.

    Attributes:
        state: Bytes it keeps for a parameter.
        together: Copies of all parameters that a step makes where it updates all at once.
        alone: Bytes of the temporaries of one parameter, where it is updated alone.
    """

    state: Callable[[Trained], int]
    together: int = 0
    alone: Callable[[Trained], int] = lambda parameter: 0

    def state_bytes(self, parameters: Sequence[Trained]) -> int:
        """Return the bytes it keeps for tensors that train."""
        return sum(self.state(parameter) for parameter in parameters)

    def step_bytes(self, parameters: Sequence[Trained], device: Device) -> int:
        """Return the most that one step needs for a moment, in bytes."""
        if device == "cuda" and self.together:
            return self.together * sum(parameter.nbytes for parameter in parameters)
        return max((self.alone(parameter) for parameter in parameters), default=0)


def trained_tensors(model: Any, *, in_float32: bool = True) -> list[Trained]:
    """Return what trains in a model, in float32 at least where that is asked.

    On the meta device what PEFT does not turn into float32 itself is in half precision still.
    """
    least = _FLOAT32 if in_float32 else 0
    return [
        Trained(tuple(parameter.shape), max(parameter.itemsize, least))
        for parameter in trainable_parameters(model).values()
    ]


def _two_moments(parameter: Trained) -> int:
    return 2 * parameter.nbytes


def _two_moments_in_8_bits(parameter: Trained) -> int:
    size = parameter.size
    if size < _SMALLEST_IN_8_BITS:
        return 2 * _FLOAT32 * size
    return 2 * (size + _FLOAT32 * math.ceil(size / _BLOCK))


def _rows_and_columns(parameter: Trained) -> int:
    """Adafactor keeps row and column means of a matrix, and all of a vector."""
    shape = parameter.shape
    if len(shape) < 2:
        return _FLOAT32 * parameter.size
    matrices = math.prod(shape[:-2])
    return _FLOAT32 * matrices * (shape[-2] + shape[-1])


#: Optimisers by name.
OPTIMIZERS: Mapping[str, Optimizer] = {
    "adamw": Optimizer(
        state=_two_moments,
        together=1,  # the square root of the second moments
        alone=lambda parameter: 2 * parameter.nbytes,  # the root, and the root scaled
    ),
    "adamw-8bit": Optimizer(state=_two_moments_in_8_bits),
    "sgd": Optimizer(state=lambda parameter: 0),
    "adafactor": Optimizer(
        state=_rows_and_columns,
        alone=lambda parameter: 2 * parameter.nbytes,  # the squares, then the update
    ),
    "lora-fa": Optimizer(state=_two_moments, alone=lambda parameter: 2 * parameter.nbytes),
}
