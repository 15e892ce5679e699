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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autopeft.search_spaces.configuration import Configuration

SCHEMA_VERSION = 1

NUM_TRAINABLE_PARAMETERS = "num_trainable_parameters"
NUM_ADAPTER_PARAMETERS = "num_adapter_parameters"
TRAIN_MEMORY_BYTES = "train_memory_bytes"
#: Origins of plain LoRA on all linear layers: what every winner is compared with.
BASELINE_ORIGINS = frozenset({"portfolio:lora-sweep", "lora-sweep"})

COST_NAMES = (NUM_TRAINABLE_PARAMETERS, NUM_ADAPTER_PARAMETERS, TRAIN_MEMORY_BYTES)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteShape:
    """One kind of linear layer that every transformer layer of a model has.

    Attributes:
        site: ``q``, ``k``, ``v``, ``attention_output``, ``ffn_in`` or ``ffn_out``.
        path: Module path with the literal ``{layer}`` in place of the layer number, e.g.
            ``bert.encoder.layer.{layer}.attention.self.query``.
        in_features: Width of the input.
        out_features: Width of the output.
        has_bias: Whether the layer has a bias vector.
    """

    site: str
    path: str
    in_features: int
    out_features: int
    has_bias: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """All that a search space needs to know of a model; found once, no weights inside.

    Attributes:
        name: Public name of the base model, never a local path.
        model_type: ``config.model_type`` of transformers, e.g. ``bert``.
        num_layers: Transformer layers, numbered from 0 (nearest the input).
        hidden_size: Width of the residual stream.
        num_attention_heads: Query heads.
        num_key_value_heads: Key and value heads (fewer under grouped-query attention).
        head_size: Width of one head.
        sites: The linear layers each transformer layer has, in forward order.
        num_base_parameters: Parameters of the frozen base model, task head excluded.
        num_head_parameters: Parameters of the task head, which always trains.
        head_paths: Module paths of the task head, e.g. ``("classifier",)``.
        num_free_positions: Positions that the job's longest batch leaves for prompt tokens;
            None where the model or the caller sets no limit.
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

    def site(self, name: str) -> SiteShape:
        """Return the site called ``name``; KeyError where the model has none."""
        for site in self.sites:
            if site.site == name:
                return site
        raise KeyError(name)

    @property
    def site_names(self) -> tuple[str, ...]:
        """Names of the sites, in forward order."""
        return tuple(site.site for site in self.sites)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary that :meth:`from_json` reads back."""
        names = [name for name in self.__slots__ if name != "sites"]
        plain = {name: getattr(self, name) for name in names}
        sites = [{name: getattr(site, name) for name in site.__slots__} for site in self.sites]
        return {**plain, "head_paths": list(self.head_paths), "sites": sites}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelShape:
        """Read what :meth:`to_json` wrote."""
        sites = tuple(SiteShape(**site) for site in data["sites"])
        return cls(**{**data, "sites": sites, "head_paths": tuple(data["head_paths"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What is known of a configuration before it is trained.

    Attributes:
        num_trainable_parameters: Exactly what PEFT reports, task head included.
        num_adapter_parameters: The same without the task head.
        train_memory_bytes: Predicted peak of one training step, in bytes.
    """

    num_trainable_parameters: int
    num_adapter_parameters: int
    train_memory_bytes: int

    def to_json(self) -> dict[str, int]:
        """Return a JSON-able dictionary."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A configuration worth a trial, and who says so.

    Attributes:
        configuration: What to train.
        origin: Where it came from: ``portfolio``, ``portfolio:lora-sweep``, ``sobol``,
            ``lora-sweep``, ``mobo``, ...
    """

    configuration: Configuration
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One configuration under one seed: the thing that is trained.

    Attributes:
        number: Consecutive from 0, in the order of proposal.
        configuration: What is trained.
        seed: Seeds head initialisation, batch order and dropout.
        origin: See :class:`Proposal`.
        costs: Known before training.
    """

    number: int
    configuration: Configuration
    seed: int
    origin: str
    costs: Costs


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
class Measurement:
    """One row of a learning curve.

    Attributes:
        trial: Number of the trial.
        step: Optimiser steps done.
        score: The search-validation metric, oriented so that more is better.
        metrics: Every metric of the task by name, in its own orientation, and
            ``train_loss``, the mean training loss since the previous measurement.
        seconds: Wall-clock seconds this segment took (training and evaluation).
        memory_bytes: Measured peak where the device can tell, else None.
        checkpoint: Name of the checkpoint at ``step``.
    """

    trial: int
    step: int
    score: float
    metrics: Mapping[str, float]
    seconds: float
    memory_bytes: int | None
    checkpoint: str


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
    """

    segment: Segment
    kind: FailureKind
    message: str


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
    """

    trial: Trial
    status: TrialStatus
    curve: tuple[Measurement, ...] = field(default=())
    reason: str = ""
    num_failures: int = 0

    @property
    def step(self) -> int:
        """Optimiser steps done and measured."""
        return self.curve[-1].step if self.curve else 0

    @property
    def score(self) -> float:
        """Score at the latest measurement; NaN where there is none."""
        return self.curve[-1].score if self.curve else math.nan

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
