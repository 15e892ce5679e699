"""What a model keeps by itself, before a method is put on it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from autopeft.workers.memory.accounts import WORST_MOMENTS
from autopeft.workers.memory.depth import stacks_of
from autopeft.workers.memory.growth import Place
from autopeft.workers.memory.optimizers import Optimizer, trained_tensors
from autopeft.workers.memory.shallow import ShallowModel
from autopeft.workers.memory.step import TrainingStep


class BaseModel:
    """Bytes of the base model; estimated from sizes where it cannot run on the meta device.

    Args:
        step: For the model in full depth.
        optimizer: Whose state comes with the head.

    Attributes:
        stacks: Its stacks of layers.
    """

    def __init__(self, step: TrainingStep, optimizer: Optimizer) -> None:
        self.step = step
        self.optimizer = optimizer
        self.shape = step.shape
        self.stacks = stacks_of(step.shape)

    @cached_property
    def shallow(self) -> ShallowModel | None:
        """The shallow model; None where the model cannot run on the meta device."""
        try:
            shallow = ShallowModel(self.step)
            _ = shallow.head_only, shallow.flow, shallow.tail, shallow.base_storages
        except Exception:  # whatever a model does that has no answer on the meta device
            return None
        return shallow

    @property
    def is_approximate(self) -> bool:
        """Whether the model itself could not be accounted for."""
        return self.shallow is None

    @cached_property
    def frozen_forward(self) -> int:
        """Bytes that are live at most in a forward pass that saves nothing."""
        try:
            assert self.shallow is not None
            return self.shallow.step.frozen_forward_bytes()
        except Exception:  # whatever a model does that has no answer on the meta device
            return self.bytes_of(self._widest)

    @cached_property
    def excess(self) -> Mapping[Place, float]:
        """What the worst moments add to what is kept, where no method adds to it."""
        try:
            assert self.shallow is not None
            return self.shallow.excess
        except Exception:  # the backward pass may fail where the forward pass did not
            wide = float(self.bytes_of(self._widest))
            places = range(-1, len(self.stacks))
            return {(place, source): wide for place in places for source in WORST_MOMENTS}

    @property
    def _widest(self) -> int:
        """Width of what the widest linear layer takes in and gives out."""
        return max((site.in_features + site.out_features for site in self.shape.sites), default=0)

    @cached_property
    def layer_output_bytes(self) -> int:
        """Bytes of what one layer hands to the next."""
        found = 0 if self.shallow is None else self.shallow.step.layer_output_bytes
        return found or self.bytes_of(self.shape.hidden_size)

    @property
    def head(self) -> int:
        """Bytes saved outside of the layers where the head alone trains."""
        if self.shallow is None:
            return self.bytes_of(max(self.shape.hidden_size, self._logits))
        return sum(self.shallow.head_only.values())

    @property
    def _logits(self) -> int:
        """Numbers a token in the output, float32 copy of the loss included."""
        return 0 if self.shape.num_head_parameters else 2 * self.shape.vocab_size

    @cached_property
    def flow(self) -> tuple[int, ...]:
        """Bytes of a layer that gradients flow through, by stack."""
        if self.shallow is not None:
            return self.shallow.flow
        # Queries, keys, values, activations and their non-linear images, and four times the
        # residual stream: two normalisations keep an input and an output.
        widths = [
            4 * self.shape.hidden_size
            + sum(site.out_features for site in self.shape.sites if site.first_layer in stack)
            for stack in self.stacks
        ]
        return tuple(self.bytes_of(width) for width in widths)

    @cached_property
    def head_state_share(self) -> float:
        """Bytes of optimiser state for each byte of the head."""
        if self.shallow is None:
            return 2.0
        trained = trained_tensors(self.shallow.bare)
        num_bytes = sum(tensor.nbytes for tensor in trained)
        return self.optimizer.state_bytes(trained) / num_bytes if num_bytes else 0.0

    def tail(self, stack: int) -> int:
        """Return what is saved after the layers where gradients end in a stack."""
        return 0 if self.shallow is None else self.shallow.tail[stack]

    def bytes_of(self, width: int) -> int:
        """Return the bytes of one number a token and unit of width."""
        return self.step.batch_size * self.step.tokens * width * self.step.dtype.itemsize
