"""Count what autograd keeps between the forward and the backward pass.

Works alike on real tensors and on the meta device, where every ``data_ptr`` is 0: a storage is
told apart by the address of its ``StorageImpl`` (``untyped_storage()._cdata``). An address is
unique only among storages that are alive, so addresses are compared for storages that are all
alive at the same time, and never later.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from autopeft.workers.memory.answers import answer, answer_without_numbers, tensors_in
from autopeft.workers.saved_activations import is_packing

#: Where a storage was made: path of the innermost module running, and how many that module
#: had made before it in the same forward pass.
Label = tuple[str, int]
INPUT: Label = ("input", 0)


class _Kept:
    """What the graph holds in place of a saved tensor; it dies with its graph node."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class SavedStorages:
    """Record the distinct storages that autograd saves inside a ``with`` block.

    A storage counts once however many views of it are saved, in full even where a view covers
    a part of it, and only while a graph that is still alive holds it: what a detached branch
    saved goes when the branch goes. Parameters and buffers of ``model`` do not count.
    """

    def __init__(self, model: nn.Module) -> None:
        self._resident = {
            tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())
        }
        self._kept: list[weakref.ref[_Kept]] = []
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def _pack(self, tensor: torch.Tensor) -> _Kept:
        kept = _Kept(tensor.detach())  # undetached, an output would keep its own graph alive
        self._kept.append(weakref.ref(kept))
        return kept

    @staticmethod
    def _unpack(kept: _Kept) -> torch.Tensor:
        return kept.tensor

    def __enter__(self) -> SavedStorages:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def sizes(self) -> dict[int, int]:
        """Return the bytes of each storage held now, by its address (valid while it is held)."""
        sizes: dict[int, int] = {}
        for reference in self._kept:
            kept = reference()
            if kept is not None:
                storage = kept.tensor.untyped_storage()
                if storage._cdata not in self._resident:
                    sizes[storage._cdata] = storage.nbytes()
        return sizes

    def num_bytes(self) -> int:
        """Return the bytes of all storages held now."""
        return sum(self.sizes().values())


class StorageLabels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Give every storage made inside a ``with`` block a :data:`Label`.

    Two forward passes of one model give the same label to the same tensor of the computation,
    whatever requires a gradient: what saved tensors are packed into is numbered apart, below 0.
    All storages are kept alive inside the block, which costs nothing on the meta device and is
    not meant for any other.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._scope: list[str] = [""]
        self._made: Counter[str] = Counter()
        self._packed: Counter[str] = Counter()
        self._labels: dict[int, Label] = {}
        self._shapes: dict[int, torch.Size] = {}
        self._alive: list[torch.UntypedStorage] = []
        self._handles = []
        for name, module in model.named_modules():
            enter, leave = self._scope_hooks(name)
            self._handles.append(module.register_forward_pre_hook(enter))
            self._handles.append(module.register_forward_hook(leave))

    def _scope_hooks(self, name: str) -> tuple[Any, Any]:
        def enter(*_: object) -> None:
            self._scope.append(name)

        def leave(*_: object) -> None:
            self._scope.pop()

        return enter, leave

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the wrapper that keeps torch.compile out costs more than the rest

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in tensors_in((args, *kwargs.values())):
            self._label(tensor, is_input=True)
        result = answer(func, args, kwargs)
        for tensor in tensors_in(result):
            self._label(tensor, is_input=False)
        return result

    def _label(self, tensor: torch.Tensor, *, is_input: bool) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._labels:
            return
        self._alive.append(storage)
        self._shapes[storage._cdata] = tensor.shape
        if is_input:
            self._labels[storage._cdata] = INPUT
            return
        scope = self._scope[-1]
        if is_packing():
            self._packed[scope] += 1
            self._labels[storage._cdata] = (scope, -self._packed[scope])
        else:
            self._labels[storage._cdata] = (scope, self._made[scope])
            self._made[scope] += 1

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    @property
    def scope(self) -> str:
        """Path of the innermost module running."""
        return self._scope[-1]

    def label_of(self, storage: torch.UntypedStorage) -> Label:
        """Return the label of a storage that was made or met inside the block."""
        return self._labels.get(storage._cdata, INPUT)

    def shape_of(self, address: int) -> torch.Size:
        """Return the shape of the tensor that a storage was made for, or met in."""
        return self._shapes[address]

    def of(self, sizes: dict[int, int]) -> dict[Label, int]:
        """Return bytes by label for bytes by address; inputs of the block share one label."""
        labelled: Counter[Label] = Counter()
        for address, num_bytes in sizes.items():
            labelled[self._labels[address]] += num_bytes
        return dict(labelled)


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follow the bytes of all storages made inside a ``with`` block that are still in use.

    Args:
        needs_numbers: Whether what is computed on the CPU is asked for; else costly operations
            give zeros of the same sizes.

    Attributes:
        now: Bytes in use.
        peak: The most that ever were in use at once, or since :meth:`restart`.
        goes_forward: Whether the forward pass runs, for those who mark sections.
        sections: The most that were in use in each section that :meth:`enter_section` has left.
    """

    def __init__(self, *, needs_numbers: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._run = answer if needs_numbers else answer_without_numbers
        self.now = 0
        self.peak = 0
        self.goes_forward = True
        self.sections: dict[Any, int] = {}
        self._section: Any = None
        self._section_peak = 0
        self._num_entered = 0
        self._num_at_peak = 0
        self._numbers: dict[int, int] = {}
        self._made_in: dict[int, Any] = {}
        self._shapes: dict[int, torch.Size] = {}
        self._live: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._resident: set[int] = set()

    def leave_out(self, model: nn.Module) -> LiveBytes:
        """Do not count parameters and buffers of a model, which operations give back at times."""
        for tensor in (*model.parameters(), *model.buffers()):
            self._resident.add(tensor.untyped_storage()._cdata)
        return self

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the wrapper that keeps torch.compile out costs more than the rest

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self._run(func, args, kwargs or {})
        for tensor in tensors_in(result):
            self._enter(tensor)
        if self.now > self._section_peak:
            self._section_peak = self.now
        if self.now > self.peak:
            self.peak = self.now
            self._num_at_peak = self._num_entered
        return result

    def enter_section(self, name: Any) -> None:
        """End a section and begin another; one that comes again counts by its worst time."""
        before = self.sections.get(self._section, 0)
        self.sections[self._section] = max(before, self._section_peak)
        self._section = name
        self._section_peak = self.now

    def by_section(self, has: Callable[[torch.Size], bool] | None = None) -> Counter[Any]:
        """Return the bytes in use by the section they were made in.

        Args:
            has: Tells of the shape that a storage was made for whether it counts; all do where
                None.
        """
        made: Counter[Any] = Counter()
        for address, reference in self._live.items():
            storage = reference()
            if storage is not None and (has is None or has(self._shapes[address])):
                made[self._made_in[address]] += storage.nbytes()
        return made

    def restart(self) -> None:
        """Look for a new peak from here on."""
        self.peak = self.now
        self._num_at_peak = self._num_entered

    def was_there_at_peak(self, tensor: torch.Tensor) -> bool:
        """Tell whether a tensor that is still in use was so at the peak."""
        number = self._numbers.get(tensor.untyped_storage()._cdata)
        return number is not None and number <= self._num_at_peak

    def _enter(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        address, num_bytes = storage._cdata, storage.nbytes()
        if address in self._resident or address in self._live:
            return

        def leave(_: object) -> None:
            del self._live[address], self._numbers[address]
            del self._made_in[address], self._shapes[address]
            self.now -= num_bytes

        self._live[address] = weakref.ref(storage, leave)
        self._num_entered += 1
        self._numbers[address] = self._num_entered
        self._made_in[address] = self._section
        self._shapes[address] = tensor.shape
        self.now += num_bytes
