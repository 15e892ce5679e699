"""Who reads what inside a layer: what methods that stand on one site do to each other.

Measured alone, methods of one layer share what they save by its name in the base model. Together
they form a chain on a site: the inner one is given what the outer one made of the input
(rotations, scaled inputs), the outer one reads what the inner one gave out, and whatever comes
after a site reads what the last one on it gave out. Each method tells, measured once alone, what
it reads and where it puts a tensor of its own in place; the rest follows from the order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from autopeft.search_spaces.configuration import Configuration, Module, Setting
from autopeft.search_spaces.method import get_method
from autopeft.workers.injection import injection_order, peft_configs
from autopeft.workers.memory.accounting import INPUT, Label, SavedStorages, StorageLabels
from autopeft.workers.memory.growth import is_numeric
from autopeft.workers.memory.shallow import plain_label, plain_path

if TYPE_CHECKING:
    from autopeft.workers.memory.accountant import Accountant

#: Path of a module of the base model, in the top layer of a stack of the shallow model.
Path = str
#: Names a storage: base model's label, or that of a method's own.
Key = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A storage of the base model that a method keeps.

    Attributes:
        path: Where it reads it.
        label: Of the storage in the base model.
        size: Bytes.
    """

    path: Path
    label: Label
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """What a method reads and replaces on the top layer of a stack.

    Attributes:
        inputs: What it gives to the layer it wraps in place of the layer's input, by path.
        outputs: What it gives out in place of the layer's output, by path.
        reads: What it keeps of the base model's storages.
        wrapped: Paths it wraps.
        again: Paths that it calls more often than the base model does.
        order: When it is put in; what comes later stands outside of what came before.
    """

    inputs: Mapping[Path, Key] = field(default_factory=dict)
    outputs: Mapping[Path, Key] = field(default_factory=dict)
    reads: tuple[Read, ...] = ()
    wrapped: frozenset[Path] = frozenset()
    again: frozenset[Path] = frozenset()
    order: tuple[Any, ...] = ()

    @property
    def changes_something(self) -> bool:
        """Whether others on its layer may keep something else on its account."""
        return bool(self.inputs or self.outputs or self.again)


@dataclass(slots=True)
class _Pass:
    """Labels seen in one forward pass: of what goes in and out of modules, and who saved what."""

    inputs: dict[str, Label] = field(default_factory=dict)
    outputs: dict[str, Label] = field(default_factory=dict)
    reads: dict[tuple[str, Label], int] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)


class Wirings:
    """Measure the wiring of methods, once each, on the shallow model.

    Args:
        accountant: Whose model they are put on.
    """

    def __init__(self, accountant: Accountant) -> None:
        self._accountant = accountant
        self._shallow = accountant.shallow
        self._known: dict[tuple[Any, ...], tuple[Wiring, ...]] = {}
        self._free: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
        self._paths: dict[tuple[int, frozenset[str]], frozenset[Path]] = {}

    def of(self, method: str, settings: Mapping[str, Setting]) -> tuple[Wiring, ...]:
        """Return the wiring of a method by stack, on all its sites.

        Args:
            method: Its name.
            settings: Every setting; sites and numbers are no matter.
        """
        if method not in self._free:
            dimensions = get_method(method).dimensions(self._accountant.full_shape)
            self._free[method] = (
                frozenset(d.name for d in dimensions if is_numeric(d)),
                frozenset(d.name for d in dimensions if d.kind == "subset"),
            )
        numeric, subsets = self._free[method]
        named = {name: value for name, value in settings.items() if name not in numeric}
        # Sites that are no dimension are drawn layer by layer, and not replaced by all of them.
        key = (method, *sorted((k, v) for k, v in named.items() if k not in subsets))
        if key not in self._known:
            try:
                self._known[key] = self._measured(method, named)
            except Exception:  # whatever a method does that has no answer on the meta device
                self._known[key] = tuple(Wiring() for _ in self._shallow.stacks)
        return self._known[key]

    def paths(self, settings: Mapping[str, Setting], place: int) -> frozenset[Path] | None:
        """Return where a module's sites are in the top layer of a stack, None if it names none."""
        names = frozenset(n for v in settings.values() if isinstance(v, tuple) for n in v)
        if not names:
            return None
        if (place, names) not in self._paths:
            stack = self._shallow.stacks[place]
            self._paths[place, names] = frozenset(
                path
                for site in self._shallow.shape.all_sites
                if site.is_in_layers and site.site in names and site.first_layer in stack
                for path in (site.path_in(stack.top), site.end_path_in(stack.top))
            )
        return self._paths[place, names]

    @cached_property
    def base(self) -> _Pass:
        """What goes in and out of the modules of the base model."""
        noted = self._noted(self._shallow.bare)
        return _Pass(
            inputs={plain_path(path): plain_label(at) for path, at in noted.inputs.items()},
            outputs={plain_path(path): plain_label(at) for path, at in noted.outputs.items()},
            calls=Counter({plain_path(path): number for path, number in noted.calls.items()}),
        )

    @cached_property
    def made_by(self) -> Mapping[Label, Path]:
        """The module that gives a storage of the base model out; the outermost of several."""
        found: dict[Label, Path] = {}
        for path, label in self.base.outputs.items():
            if self._shallow.layer_of(path) is not None and label != INPUT:
                found.setdefault(label, path)
        return found

    def _measured(self, method: str, settings: Mapping[str, Setting]) -> tuple[Wiring, ...]:
        accountant, shallow = self._accountant, self._shallow
        module = accountant.everywhere(method, settings)
        model = accountant.build(module)
        noted = self._noted(model)
        names = {name for name, _ in model.named_modules()}
        wrappers = [name for name in names if f"{name}.base_layer" in names]
        order = self._order(module)
        found = []
        for stack in shallow.stacks:
            inputs: dict[Path, Key] = {}
            outputs: dict[Path, Key] = {}
            wrapped = set()
            for wrapper in wrappers:
                path, inner = plain_path(wrapper), f"{wrapper}.base_layer"
                if shallow.layer_of(path) != stack.top:
                    continue
                wrapped.add(path)
                while f"{inner}.base_layer" in names:
                    inner += ".base_layer"
                for seen, changed in ((noted.inputs, inputs), (noted.outputs, outputs)):
                    if inner in seen and wrapper in seen and seen[inner] != seen[wrapper]:
                        mine = seen[inner] if changed is inputs else seen[wrapper]
                        changed[path] = (method, *mine)
            if not wrapped:
                self._note_replaced(noted, method, stack.top, inputs)
            reads = {
                Read(path=self._base_path(scope), label=plain, size=size)
                for (scope, label), size in noted.reads.items()
                if shallow.layer_of(scope) == stack.top
                and (plain := accountant.shared_label(model, method, label, size))
                in self.base_labels
            }
            found.append(
                Wiring(
                    inputs=inputs,
                    outputs=outputs,
                    reads=tuple(sorted(reads, key=lambda read: (read.path, read.label))),
                    wrapped=frozenset(wrapped),
                    again=frozenset(
                        path
                        for path in self._linear_paths(stack.top)
                        if noted.calls[f"base_model.model.{path}"] > self.base.calls[path]
                    ),
                    order=order,
                )
            )
        return tuple(found)

    def _note_replaced(
        self, noted: _Pass, method: str, layer: int, inputs: dict[Path, Key]
    ) -> None:
        """Add what goes into linear layers in place of what does so in the base model.

        That is so where a method computes attention itself. What it keeps anyway costs nothing
        to read.
        """
        kept = {label for _, label in noted.reads}
        for path in self._linear_paths(layer):
            label = noted.inputs.get(f"base_model.model.{path}")
            usual = self.base.inputs.get(path)
            if label is None or usual is None or label in kept or label == INPUT:
                continue
            if usual in self.base_flow and plain_label(label) != usual:
                inputs[path] = (method, *label)

    def _linear_paths(self, layer: int) -> list[Path]:
        return [
            site.path_in(layer)
            for site in self._shallow.shape.sites
            if site.is_in_layers and site.layers_among((layer,))
        ]

    @cached_property
    def base_flow(self) -> frozenset[Label]:
        """Labels of what a layer that gradients flow through keeps."""
        return frozenset(label for sizes in self._shallow.flow_sizes for label in sizes)

    @cached_property
    def base_labels(self) -> frozenset[Label]:
        """Labels of what goes in and out of the modules of the base model."""
        return frozenset({*self.base.inputs.values(), *self.base.outputs.values()} - {INPUT})

    @cached_property
    def _base_paths(self) -> frozenset[Path]:
        return frozenset(self.base.inputs)

    def _base_path(self, scope: str) -> Path:
        """Return the module of the base model that a scope is, or that it stands in."""
        path = plain_path(scope)
        while path and path not in self._base_paths:
            path = path.rpartition(".")[0]
        return path

    def _order(self, module: Module) -> tuple[Any, ...]:
        chosen = Configuration(modules=(module,), learning_rate=1.0)
        (config,) = peft_configs(chosen, self._shallow.shape).values()
        return (*injection_order(config), module.method)

    def _noted(self, model: Any) -> _Pass:
        """Run the forward pass of a model and note what goes where."""
        noted, labels = _Pass(), StorageLabels(model)
        saved = _Reads(model, labels)
        handles = []
        for name, module in model.named_modules():
            if self._shallow.layer_of(name) is not None:
                enter, leave = _noting(name, labels, noted)
                handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
                handles.append(module.register_forward_hook(leave))
        try:
            sizes = self._shallow.step.saved_by_label(model, saved, labels)
        finally:
            for handle in handles:
                handle.remove()
        noted.reads = {
            (scope, label): sizes[label] for scope, label in saved.reads if label in sizes
        }
        return noted


class _Reads(SavedStorages):
    """Record also which module saves what."""

    def __init__(self, model: Any, labels: StorageLabels) -> None:
        super().__init__(model)
        self._labels = labels
        self.reads: dict[tuple[str, Label], None] = {}

    def _pack(self, tensor: torch.Tensor) -> Any:
        label = self._labels.label_of(tensor.untyped_storage())
        self.reads[self._labels.scope, label] = None
        return super()._pack(tensor)


def _noting(
    name: str, labels: StorageLabels, noted: _Pass
) -> tuple[Callable[..., None], Callable[..., None]]:
    def enter(_: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        first = next((v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)), None)
        if first is not None:
            noted.calls[name] += 1
            noted.inputs.setdefault(name, labels.label_of(first.untyped_storage()))

    def leave(_: Any, __: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, torch.Tensor):
            noted.outputs.setdefault(name, labels.label_of(first.untyped_storage()))

    return enter, leave


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewired:
    """What a method keeps together with others of its layer, where that is not as it is alone.

    Attributes:
        instead: By label that it keeps alone what it keeps in its place.
        beside: What it keeps besides; where the base model keeps the label anyway, in its flow.
        again: Where others call it once more.
    """

    instead: Mapping[Label, Mapping[Key, int]]
    beside: Mapping[Key, int]
    again: frozenset[Path] = frozenset()

    def applied(
        self, extra: Mapping[Any, int], of_weights: Set[Key] = frozenset()
    ) -> dict[Any, int]:
        """Return what is kept besides the flow, given what is kept alone.

        Args:
            extra: By key what is kept alone.
            of_weights: What of it does not depend on the text, so that a layer that is called
                for a few prompts keeps it once more.
        """
        found = dict(extra)
        if self.again:
            for key in of_weights & extra.keys():
                if any(f"{plain_path(key[1])}.".startswith(f"{path}.") for path in self.again):
                    found[*key, "again"] = extra[key]
        for label, keys in self.instead.items():
            if label in extra:
                if label not in keys:
                    del found[label]
                found.update(keys)
        found.update(self.beside)
        return found


def rewired(
    placed: Sequence[tuple[Wiring, frozenset[Path] | None]],
    inputs: Mapping[Path, Label],
    made_by: Mapping[Label, Path],
) -> list[Rewired | None]:
    """Return what becomes of the reads of methods that stand on one layer, None where nothing does.

    Args:
        placed: Wirings and where they stand, None for wherever they can.
        inputs: What goes into each module of the base model.
        made_by: Which module gives a storage out.
    """

    def nearest(path: Path, among: Iterable[int], side: str) -> Key | None:
        for j in among:
            wiring, paths = placed[j]
            found: Mapping[Path, Key] = getattr(wiring, side)
            if path in found and (paths is None or path in paths):
                return found[path]
        return None

    ranks = sorted(range(len(placed)), key=lambda k: placed[k][0].order)
    found: list[Rewired | None] = []
    changing = [j for j in ranks if placed[j][0].changes_something]
    for k, (wiring, paths) in enumerate(placed):
        others = [j for j in changing if j != k]
        if not others:
            found.append(None)
            continue
        instead: dict[Label, dict[Key, int]] = {}
        beside: dict[Key, int] = {}
        later = set(ranks[ranks.index(k) :])
        inner = [j for j in reversed(others) if j not in later]
        for read in wiring.reads:
            path, label = read.path, read.label
            is_wrapped = path in wiring.wrapped
            if is_wrapped and paths is not None and path not in paths:
                continue
            key = None
            if inputs.get(path) == label:
                # A weight of the base model's own is inside of all that wraps it.
                around = [
                    j
                    for j in others
                    if not is_wrapped or j in later or path not in placed[j][0].wrapped
                ]
                key = nearest(path, around, "inputs")
                if key is not None:
                    beside[key] = read.size
            maker = made_by.get(label)
            if key is None and maker is not None:
                own = inner if is_wrapped else []
                key = nearest(maker, own if maker == path else reversed(others), "outputs")
            instead.setdefault(label, {})[label if key is None else key] = read.size
        found.append(
            Rewired(
                instead={label: keys for label, keys in instead.items() if set(keys) != {label}},
                beside=beside,
                again=frozenset(path for j in others for path in placed[j][0].again),
            )
        )
    return found
