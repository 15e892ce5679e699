"""What the rooms hand to each other: plain, frozen, JSON-able records.

Nothing here imports a room of ours at run time, torch, or anything else that is heavy.

Life of a trial::

    proposed -> running -> paused -> running -> ... -> completed
                   |          |                        stopped     (a rung judged it)
                   |          `-> stopped              diverged    (NaN or infinite loss)
                   `----------------------------------> infeasible (out of memory), failed
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from autopeft.search_spaces.configuration import Configuration

SCHEMA_VERSION = 1

NUM_TRAINABLE_PARAMETERS = "num_trainable_parameters"
NUM_ADAPTER_PARAMETERS = "num_adapter_parameters"
TRAIN_MEMORY_BYTES = "train_memory_bytes"
ADAPTER_FILE_BYTES = "adapter_file_bytes"
INFERENCE_EXTRA_FLOPS = "inference_extra_flops"
TRAIN_SECONDS = "train_seconds"
RETENTION = "retention"
#: Origins of plain LoRA on all linear layers: what every winner is compared with.
BASELINE_ORIGINS = frozenset({"portfolio:lora-sweep", "lora-sweep"})

#: What is known of a configuration before it is trained.
KNOWN_COST_NAMES = (
    NUM_TRAINABLE_PARAMETERS,
    NUM_ADAPTER_PARAMETERS,
    TRAIN_MEMORY_BYTES,
    ADAPTER_FILE_BYTES,
    INFERENCE_EXTRA_FLOPS,
)
#: What only training tells; a trial's last measurement holds it among its metrics.
MEASURED_COST_NAMES = (TRAIN_SECONDS, RETENTION)
COST_NAMES = KNOWN_COST_NAMES + MEASURED_COST_NAMES
COSTS_IN_BYTES = (TRAIN_MEMORY_BYTES, ADAPTER_FILE_BYTES)


class TrialStatus(StrEnum):
    """Where a trial stands; the last five are final."""

    PROPOSED = "proposed"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    STOPPED = "stopped"
    INFEASIBLE = "infeasible"
    DIVERGED = "diverged"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether no further segment of the trial will ever run."""
        return self in FINAL_STATUSES


FINAL_STATUSES = frozenset(
    {
        TrialStatus.COMPLETED,
        TrialStatus.STOPPED,
        TrialStatus.INFEASIBLE,
        TrialStatus.DIVERGED,
        TrialStatus.FAILED,
    }
)


class FailureKind(StrEnum):
    """Why a segment yielded no measurement."""

    WORKER_DIED = "worker_died"
    OUT_OF_MEMORY = "out_of_memory"
    DIVERGED = "diverged"
    ERROR = "error"


SiteKind = Literal["linear", "conv1d", "convolution", "norm", "embedding", "block", "parameter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteShape:
    """One kind of place in a model that a method can be put on.

    Several site shapes may share a name: an encoder's and a decoder's ``q``, or layers of
    different widths. Together they never name one layer twice.

    Attributes:
        site: Name from ``search_spaces.targets``, e.g. ``q``, ``ffn_out`` or ``ffn_norm``.
        path: Module path with the literal ``{layer}`` in place of the layer number, e.g.
            ``bert.encoder.layer.{layer}.attention.self.query``; without it where the module
            stands outside the layers (embeddings, a final normalisation).
        in_features: Width of the input (channels of a convolution, rows of an embedding).
        out_features: Width of the output.
        has_bias: Whether the layer has a bias vector.
        kind: ``linear`` (``nn.Linear``), ``conv1d`` (a linear layer of transformers that
            keeps its weight transposed), ``convolution`` (``nn.Conv1d`` or ``nn.Conv2d``),
            ``norm``, ``embedding``, ``block`` (everything from the input of ``path`` to the
            output of ``end_path``, both of the residual stream's width), or ``parameter`` (a
            stacked weight that is no module, such as the experts of a mixture).
        layers: Numbers of the model's layers that have it; None stands for all of them.
        first_layer: Number of the model's layer that ``path`` counts as 0: a decoder's layers
            follow the encoder's.
        end_path: For a block, the module whose output ends it, with ``{layer}`` as in ``path``.
        kernel_size: Extents of a convolution's kernel; of a parameter, those before its matrix
            (how many experts are stacked); () for everything else.
    """

    site: str
    path: str
    in_features: int
    out_features: int
    has_bias: bool
    kind: SiteKind = "linear"
    layers: tuple[int, ...] | None = None
    first_layer: int = 0
    end_path: str | None = None
    kernel_size: tuple[int, ...] = ()

    @property
    def is_in_layers(self) -> bool:
        """Whether it stands in the transformer layers, not before or after them."""
        return "{layer}" in self.path

    def layers_among(self, layers: Iterable[int]) -> tuple[int, ...]:
        """Return those of ``layers`` (numbers of the model) that have it, in their order."""
        if self.layers is None:
            return tuple(layers)
        own = frozenset(self.layers)
        return tuple(layer for layer in layers if layer in own)

    def path_in(self, layer: int) -> str:
        """Return the module path in one of the model's layers."""
        return self.path.format(layer=layer - self.first_layer)

    def end_path_in(self, layer: int) -> str:
        """Return the path of the module whose output ends the block in one layer."""
        return (self.end_path or self.path).format(layer=layer - self.first_layer)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary; what has its default value is left out."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        kept = {k: v for k, v in plain.items() if v != _SITE_DEFAULTS.get(k, _NO_DEFAULT)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SiteShape:
        """Read what :meth:`to_json` wrote."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        return cls(**values)


_NO_DEFAULT = object()
_SITE_DEFAULTS = {
    field.name: field.default for field in fields(SiteShape) if field.default is not MISSING
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """All that a search space needs to know of a model; found once, no weights inside.

    Attributes:
        name: Public name of the base model, never a local path.
        model_type: ``config.model_type`` of transformers, e.g. ``bert``.
        num_layers: Transformer layers, numbered from 0 (nearest the input); the decoder's
            follow the encoder's where there are both.
        hidden_size: Width of the residual stream.
        num_attention_heads: Query heads; 0 where there is no attention.
        num_key_value_heads: Key and value heads (fewer under grouped-query attention).
        head_size: Width of one head.
        sites: The linear layers in the transformer layers, in forward order.
        num_base_parameters: Parameters of the frozen base model, task head excluded.
        num_head_parameters: Parameters of the task head, which always trains; 0 where the
            task needs no new head.
        head_paths: Module paths of the task head, e.g. ``("classifier",)``.
        num_free_positions: Positions that the job's longest batch leaves for prompt tokens;
            None where the model or the caller sets no limit.
        task: Name of the task the model was shaped for.
        stacks: Name and number of layers of each stack, in the order of their numbering,
            e.g. ``(("encoder", 12), ("decoder", 12))``.
        norms: Normalisations: ``attention_norm``, ``ffn_norm``, ... and ``final_norm``.
        embeddings: ``token_embedding``, ``position_embedding``, ...
        blocks: ``attention_block``, ``ffn_block``, ... of each layer.
        convolutions: Convolutions, e.g. ``patch_embedding`` or ``mixer_convolution``.
        parameters: Stacked weights that are no modules, such as fused experts.
        vocab_size: Rows of the token embedding; 0 where there is none.
        has_tied_embeddings: Whether the output layer shares the token embedding.
        forward_arguments: Names of the arguments of the model's ``forward``.
        uses_attention_interface: Whether attention goes through transformers' registry of
            attention functions, where another one can be put in its place.
        uses_gradient_checkpointing: Whether the job trains with it.
        uses_packing: Whether the job trains on sequences that hold several examples.
        quantization: ``4bit`` or ``8bit`` where the frozen weights are stored so, else None.
    """

    name: str
    model_type: str
    num_layers: int
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_size: int
    sites: tuple[SiteShape, ...]
    num_base_parameters: int
    num_head_parameters: int
    head_paths: tuple[str, ...]
    num_free_positions: int | None = None
    task: str = "classification"
    stacks: tuple[tuple[str, int], ...] = ()
    norms: tuple[SiteShape, ...] = ()
    embeddings: tuple[SiteShape, ...] = ()
    blocks: tuple[SiteShape, ...] = ()
    convolutions: tuple[SiteShape, ...] = ()
    parameters: tuple[SiteShape, ...] = ()
    vocab_size: int = 0
    has_tied_embeddings: bool = False
    forward_arguments: tuple[str, ...] = ()
    uses_attention_interface: bool = False
    uses_gradient_checkpointing: bool = False
    uses_packing: bool = False
    quantization: str | None = None

    @property
    def all_sites(self) -> tuple[SiteShape, ...]:
        """Every place a method can be put on, of every kind."""
        return (
            *self.sites,
            *self.norms,
            *self.embeddings,
            *self.blocks,
            *self.convolutions,
            *self.parameters,
        )

    def sites_called(self, name: str) -> tuple[SiteShape, ...]:
        """Return all site shapes called ``name``, of any kind; () where there is none."""
        return tuple([site for site in self.all_sites if site.site == name])

    def site(self, name: str) -> SiteShape:
        """Return the only site shape called ``name``.

        Raises:
            KeyError: the model has none, or several.
        """
        found = self.sites_called(name)
        if len(found) != 1:
            raise KeyError(name)
        return found[0]

    @property
    def site_names(self) -> tuple[str, ...]:
        """Names of the linear sites, in forward order, each once."""
        return tuple(dict.fromkeys(site.site for site in self.sites))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary that :meth:`from_json` reads back."""
        data = {name: getattr(self, name) for name in self.__slots__}
        for group in _SITE_GROUPS:
            data[group] = [site.to_json() for site in data[group]]
        data["stacks"] = [list(stack) for stack in self.stacks]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in data.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelShape:
        """Read what :meth:`to_json` wrote."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        for group in _SITE_GROUPS:
            values[group] = tuple(SiteShape.from_json(site) for site in data.get(group, ()))
        values["stacks"] = tuple((name, number) for name, number in data.get("stacks", ()))
        return cls(**values)


_SITE_GROUPS = ("sites", "norms", "embeddings", "blocks", "convolutions", "parameters")


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a configuration costs; less is better of each.

    The first five are known before it is trained. The others are measured; None before that.

    Attributes:
        num_trainable_parameters: Exactly what trains, task head included.
        num_adapter_parameters: The same without the task head.
        train_memory_bytes: Predicted peak of one training step, in bytes.
        adapter_file_bytes: Numbers in the exported adapter, task head included, in bytes.
        inference_extra_flops: Floating-point operations a token costs beyond the base
            model's; 0 where the adapter can be merged.
        train_seconds: Wall-clock seconds of training, all segments together.
        retention: What the base model lost of its own behaviour: the rise of its loss on a
            probe set, in nats a token; negative where it gained.
    """

    num_trainable_parameters: int
    num_adapter_parameters: int
    train_memory_bytes: int
    adapter_file_bytes: int = 0
    inference_extra_flops: int = 0
    train_seconds: float | None = None
    retention: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary; what was not measured is left out."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A configuration worth a trial, and who says so.

    Attributes:
        configuration: What to train.
        origin: Where it came from: ``portfolio``, ``portfolio:lora-sweep``, ``sobol``,
            ``lora-sweep``, ``mobo``, ...
        turned_down: Names of the limits without which another one would have been proposed.
        seed: What the trial is seeded with; None stands for the job's own seed.
        doubt: Why it is probably not worth its training, though the best there is; "" where it
            may be.
    """

    configuration: Configuration
    origin: str
    turned_down: tuple[str, ...] = ()
    seed: int | None = None
    doubt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One configuration under one seed: the thing that is trained.

    Attributes:
        number: Consecutive from 0, in the order of proposal.
        configuration: What is trained.
        seed: Seeds head initialisation, batch order and dropout.
        origin: See :class:`Proposal`.
        costs: Known before training.
        turned_down: See :class:`Proposal`.
    """

    number: int
    configuration: Configuration
    seed: int
    origin: str
    costs: Costs
    turned_down: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The unit of work and of loss: train a trial from one step to another, then evaluate.

    Attributes:
        trial: What is trained.
        from_step: Optimiser steps already done; 0 starts afresh.
        to_step: Optimiser steps done at the end; a measurement is made there.
        checkpoint: Name of the checkpoint at ``from_step`` inside the job's checkpoint
            folder; None exactly where ``from_step`` is 0.
        attempt: 0 at first, one more for each retry after a failure.
    """

    trial: Trial
    from_step: int
    to_step: int
    checkpoint: str | None = None
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredMemory:
    """The peak memory of training, measured.

    Attributes:
        kind: ``cuda`` where the device's allocator tells, ``accounted`` where live tensors were
            counted, on the CPU.
        peak_bytes: The most that was in use at once, base model included: what a prediction is
            compared with.
        base_bytes: What of it is the base model, there before the trial.
        reserved_bytes: The most that the allocator held of the device; None on the CPU.
    """

    kind: Literal["cuda", "accounted"]
    peak_bytes: int
    base_bytes: int
    reserved_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One row of a learning curve.

    Attributes:
        trial: Number of the trial.
        step: Optimiser steps done.
        score: The search-validation metric, oriented so that more is better.
        metrics: Every metric of the task by name, in its own orientation, and
            ``train_loss``, the mean training loss since the previous measurement;
            ``branch_steps`` where what was scored is a branch: steps on top of the trial's own.
        seconds: Wall-clock seconds this segment took (training and evaluation).
        memory_bytes: Measured peak where there is one, else None; see ``memory``.
        checkpoint: Name of the checkpoint at ``step``.
        memory: The same peak and what is known besides; on the CPU of the first measurement
            of a trial alone. None in jobs of versions that did not keep it.
        cpu_seconds: Processor time the segment took, all threads together, which a busy machine
            does not stretch as it does ``seconds``; None where it is not known.
    """

    trial: int
    step: int
    score: float
    metrics: Mapping[str, float]
    seconds: float
    memory_bytes: int | None
    checkpoint: str
    memory: MeasuredMemory | None = None
    cpu_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentDone:
    """A worker finished a segment; its checkpoint is on disk."""

    segment: Segment
    measurement: Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentFailed:
    """A worker did not finish a segment.

    Attributes:
        segment: What was asked.
        kind: Class of the failure; it decides between retry, infeasible and diverged.
        message: For people: the exception's text or what is known of the worker's end.
        least_memory_bytes: Where memory ran out, what the trial needs at least, if that is known.
    """

    segment: Segment
    kind: FailureKind
    message: str
    least_memory_bytes: int | None = None


SegmentEvent = SegmentDone | SegmentFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialState:
    """A trial and all that has happened to it; rebuilt from the log, never edited.

    Attributes:
        trial: The trial.
        status: Where it stands.
        curve: Its measurements by growing step.
        reason: Why it was paused, stopped or did not finish; "" while there is nothing
            to say.
        num_failures: Failed attempts so far.
        least_memory_bytes: What it needs at least, told by running out of memory; None where it
            did not, or nothing is known.
    """

    trial: Trial
    status: TrialStatus
    curve: tuple[Measurement, ...] = field(default=())
    reason: str = ""
    num_failures: int = 0
    least_memory_bytes: int | None = None

    @property
    def step(self) -> int:
        """Optimiser steps done and measured."""
        return self.curve[-1].step if self.curve else 0

    @property
    def score(self) -> float:
        """Score at the latest measurement; NaN where there is none."""
        return self.curve[-1].score if self.curve else math.nan

    @property
    def costs(self) -> Costs:
        """The trial's costs, with what its latest measurement tells of the measured ones."""
        if not self.curve:
            return self.trial.costs
        metrics = self.curve[-1].metrics
        measured: dict[str, Any] = {
            name: metrics[name] for name in MEASURED_COST_NAMES if name in metrics
        }
        return replace(self.trial.costs, **measured) if measured else self.trial.costs

    @property
    def checkpoint(self) -> str | None:
        """Name of the latest checkpoint."""
        return self.curve[-1].checkpoint if self.curve else None

    def score_at(self, step: int) -> float:
        """Return the score measured at exactly ``step``; NaN where there is none."""
        for measurement in self.curve:
            if measurement.step == step:
                return measurement.score
        return math.nan


def count_statuses(states: Sequence[TrialState]) -> dict[str, int]:
    """Count trials by final status; the five counts are disjoint, unfinished ones are left out."""
    counts = {
        status.value: 0
        for status in (
            TrialStatus.COMPLETED,
            TrialStatus.STOPPED,
            TrialStatus.INFEASIBLE,
            TrialStatus.DIVERGED,
            TrialStatus.FAILED,
        )
    }
    for state in states:
        if state.status.is_final:
            counts[state.status.value] += 1
    return counts
