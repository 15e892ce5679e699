"""What an optimiser adds to memory: its state, and what one of its steps needs for a moment.

Read off the implementations: torch 2.13 (``torch.optim``), bitsandbytes 0.50 (8-bit AdamW) and
transformers 5.23 (Adafactor). On CUDA torch updates all parameters of a group at once
(``foreach``), so that a temporary is as large as all of them; on the CPU one after the other, and
what the loop computed last for one parameter is still there while it comes to the next. What
bitsandbytes makes within its operations is not counted, nor are its two tables of 256 values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopeft.workers.adapter_tensors import trainable_parameters
from autopeft.workers.memory.kernels import Device
from autopeft.workers.optimizers import weight_decays

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
        decays: Whether it is in the group that weight decay touches.
    """

    shape: tuple[int, ...]
    itemsize: int
    decays: bool = True

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
        is_even: Whether these are as many for each byte of any parameter.
        together: Copies of all parameters that a step makes where it updates all at once.
        alone: Copies of one parameter, where it is updated alone.
        left: Of these, copies that are still there when the next one's turn comes.
    """

    state: Callable[[Trained], int]
    is_even: bool = True
    together: int = 0
    alone: int = 0
    left: int = 0

    def state_bytes(self, parameters: Sequence[Trained]) -> int:
        """Return the bytes it keeps for tensors that train."""
        return sum(self.state(parameter) for parameter in parameters)

    def step_bytes(self, parameters: Sequence[Trained], device: Device) -> int:
        """Return the most that one step needs for a moment, in bytes."""
        if device == "cuda" and self.together:
            return self.together * sum(parameter.nbytes for parameter in parameters)
        most = 0
        for decays in (True, False):  # in groups, one after the other
            left = 0
            for parameter in parameters:
                if parameter.decays == decays:
                    most = max(most, left + self.alone * parameter.nbytes)
                    left = self.left * parameter.nbytes
        return most


def trained_tensors(model: Any, *, in_float32: bool = True) -> list[Trained]:
    """Return what trains in a model, in float32 at least where that is asked.

    On the meta device what PEFT does not turn into float32 itself is in half precision still.
    """
    least = _FLOAT32 if in_float32 else 0
    return [
        Trained(
            tuple(parameter.shape), max(parameter.itemsize, least), weight_decays(name, parameter)
        )
        for name, parameter in trainable_parameters(model).items()
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
        alone=2,  # the root, and the root scaled
        left=1,
    ),
    "adamw-8bit": Optimizer(state=_two_moments_in_8_bits, is_even=False),
    "sgd": Optimizer(state=lambda parameter: 0),
    "adafactor": Optimizer(
        state=_rows_and_columns,
        is_even=False,
        alone=2,  # the squares, then the update
        left=1,
    ),
    "lora-fa": Optimizer(state=_two_moments, alone=2, left=1),
}
