"""What a user may say about model, data, training and workers; no torch is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """Refuse unknown keys and stay as given."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class RowLimits(Settings):
    """At most this many rows of each split, drawn with the job's seed."""

    train: PositiveInt | None = Field(None, description="Rows of the training split.")
    validation: PositiveInt | None = Field(None, description="Rows the search scores on.")
    test: PositiveInt | None = Field(None, description="Rows of the test split.")


class Columns(Settings):
    """Which columns to read; inferred where not named."""

    text: str | None = Field(None, description="Column with the text, or the first of a pair.")
    text_pair: str | None = Field(None, description="Column with the second text of a pair.")
    label: str | None = Field(None, description="Column with the class or the number to predict.")


class DataSettings(Settings):
    """A data set: local files, a `datasets` hub name, or `builtin:docstrings`."""

    name: str | None = Field(None, description="Hub name or builtin:docstrings.")
    config: str | None = Field(None, description="Configuration of the hub data set.")
    train: str | None = Field(
        None, description="Training file (jsonl, csv or parquet), or split name of a hub data set."
    )
    validation: str | None = Field(
        None, description="Search-validation file or split; cut from train where absent."
    )
    test: str | None = Field(
        None, description="Test file or split; cut from train where absent. Never seen in a search."
    )
    columns: Columns = Columns()
    limit: RowLimits = RowLimits()


class ModelSettings(Settings):
    """The base model that stays frozen."""

    name: str = Field(description="Hub name, folder with safetensors, or builtin:minilm.")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub model.")
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model.")


class TrainingSettings(Settings):
    """How each trial is trained."""

    batch_size: PositiveInt = Field(32, description="Examples in one optimiser step.")
    max_tokens: Annotated[int, Field(ge=4)] = Field(
        128, description="Longer examples are truncated."
    )
    steps: PositiveInt = Field(96, description="Optimiser steps of a trial trained to the end.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="Learning rate over the full steps, after warm-up."
    )
    warmup_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.06, description="Part of the steps with a linearly growing learning rate."
    )
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="AdamW weight decay.")
    max_grad_norm: Annotated[float, Field(gt=0.0)] = Field(1.0, description="Gradient clipping.")
    evaluation_batch_size: PositiveInt = Field(64, description="Examples per evaluation batch.")


class WorkersSettings(Settings):
    """Where segments run."""

    executor: str = Field("ray", description="ray, or inline for one process.")
    num: PositiveInt = Field(1, description="Trials trained at the same time.")
    cpus: PositiveInt | None = Field(None, description="CPU cores of a worker; default: all / num.")
    gpus: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="GPUs of a worker; fractions share one."
    )
    max_retries: Annotated[int, Field(ge=0)] = Field(
        2, description="Attempts after a worker died or raised."
    )
    address: str | None = Field(None, description="Ray cluster to join; default: start one here.")


class WorkerSettings(Settings):
    """Everything a worker needs to know, resolved: paths absolute, task and metric chosen."""

    model: ModelSettings
    task: str
    metric: str
    training: TrainingSettings
    num_outputs: PositiveInt
    seed: int
    checkpoints: Path
    num_threads: PositiveInt = 1
