"""The keys of a job file, as pydantic models: types, ranges, defaults and what each means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from autopeft.records import COSTS_IN_BYTES
from autopeft.service.job_checks import is_data_file
from autopeft.service.job_problems import show
from autopeft.sizes import parse_bytes, parse_count
from autopeft.workers.settings import (
    DataSettings,
    GenerationSettings,
    ModelSettings,
    PositiveInt,
    RetentionSettings,
    Settings,
    TrainingSettings,
    WorkersSettings,
)


def model_from_text(value: Any) -> Any:
    """Open a model given as one string into a mapping."""
    return {"name": value} if isinstance(value, str) else value


def data_from_text(value: Any) -> Any:
    """Open data given as one string into a mapping: a file's name or a data set's."""
    if not isinstance(value, str):
        return value
    return {"train" if is_data_file(value) else "name": value}


def _text_or_mapping(value: Any) -> Any:
    if not isinstance(value, str | Mapping):
        raise ValueError(f"expected a preset name, a YAML file or a mapping, got {show(value)}")
    return value


def _tuple_of_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class BudgetSettings(Settings):
    """When a job ends: at the first limit reached."""

    trials: PositiveInt | None = Field(None, description="Trials proposed.")
    steps: PositiveInt | None = Field(None, description="Optimiser steps over all trials.")
    minutes: Annotated[float, Field(gt=0.0)] | None = Field(
        None, description="Minutes of all runs of the job together; running segments finish."
    )
    gpu_hours: Annotated[float, Field(gt=0.0)] | None = Field(
        None,
        description="Hours of GPUs at work, or of workers where they have no GPU; never exceeded: "
        "a segment is sent only where its expected time still fits.",
    )
    end_early: bool = Field(
        True,
        description="End before the limits, once the proposer expects of no configuration an "
        "improvement worth its training.",
    )

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if not self.limits:
            names = ", ".join(name for name in type(self).model_fields if name != "end_early")
            raise ValueError(f"names no limit; give at least one of {names}")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are given, by name."""
        given = {name: limit for name, limit in dict(self).items() if name != "end_early"}
        return {name: limit for name, limit in given.items() if limit is not None}


def _limits_in_units(value: Any) -> Any:
    """Read the limits given as text: ``24GiB`` of what is in bytes, ``2M`` of all else."""
    if not isinstance(value, Mapping):
        return value
    read = {}
    for name, limits in value.items():
        read[name] = limits
        if isinstance(limits, Mapping):
            read[name] = {key: _number(name, limit) for key, limit in limits.items()}
    return read


def _number(name: str, limit: Any) -> Any:
    """Return a limit as a number; as it is where its text does not suit the cost."""
    if not isinstance(limit, str):
        return limit
    try:
        return float(parse_bytes(limit)) if name in COSTS_IN_BYTES else parse_count(limit)
    except ValueError:
        return limit


def _refuse_text(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(
            f"expected a number such as 2M, or a size such as 24GiB for a cost in bytes, got "
            f"{show(value)}"
        )
    return value


_Limit = Annotated[float, BeforeValidator(_refuse_text, json_schema_input_type=float | str)]


class LimitSettings(Settings):
    """What a constraint allows, in natural units."""

    min: _Limit | None = Field(None, description="Smallest value allowed.")
    max: _Limit | None = Field(None, description="Largest value allowed, such as 2M or 24GiB.")

    @model_validator(mode="before")
    @classmethod
    def _is_a_mapping(cls, value: Any) -> Any:
        if isinstance(value, Mapping | LimitSettings):
            return value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        limit = f"{value:g}" if is_number else "..."
        raise ValueError(f"expected {{max: {limit}}} or {{min: {limit}}}, got {show(value)}")

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("names no limit; give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


class JobSettings(Settings):
    """A job file for AutoPEFT: which configurations to search, on which model and data."""

    name: str | None = Field(None, description="Name of the job; default: the file's own name.")
    model: Annotated[
        ModelSettings,
        BeforeValidator(model_from_text, json_schema_input_type=str | ModelSettings),
    ] = Field(description="Base model: a hub name, a folder with safetensors, or builtin:minilm.")
    data: Annotated[
        DataSettings, BeforeValidator(data_from_text, json_schema_input_type=str | DataSettings)
    ] = Field(
        description="Data set: builtin:docstrings, a hub name, or files under train, validation "
        "and test. Paths are relative to this file and may hold ~ and ${VARIABLES}."
    )
    task: str = Field("auto", description="What to train for; auto infers it from the labels.")
    space: Annotated[
        str | dict[str, Any],
        BeforeValidator(_text_or_mapping, json_schema_input_type=str | dict[str, Any]),
    ] = Field(
        "default",
        description="Search space: a preset, a YAML file relative to this one, or a mapping.",
    )
    objectives: (
        Annotated[
            tuple[str, ...], BeforeValidator(_tuple_of_list, json_schema_input_type=list[str])
        ]
        | None
    ) = Field(
        None,
        description="One metric and the costs to trade it against; default: the task's own "
        "metric, num_trainable_parameters and train_memory_bytes.",
    )
    constraints: Annotated[dict[str, LimitSettings], BeforeValidator(_limits_in_units)] = Field(
        {},
        description="Limits a trial must keep to be on the front, by cost or metric: "
        "{train_memory_bytes: {max: 8GiB}}.",
    )
    training: TrainingSettings = Field(TrainingSettings(), description="How a trial is trained.")
    metric: str | None = Field(
        None,
        description="Score of generated answers for trials trained to the end: exact_match, "
        "token_f1, or a function of your own, file.py:function, given predictions and references.",
    )
    generation: GenerationSettings = Field(
        GenerationSettings(), description="How answers are generated where metric is given."
    )
    retention: RetentionSettings | None = Field(
        None,
        description="Measure how much a trained model forgets of general text; also measured "
        "where retention is an objective or a constraint.",
    )
    budget: BudgetSettings = Field(
        BudgetSettings(trials=24), description="When the job ends; default: 24 trials."
    )
    proposer: str = Field("mobo", description="What decides which configuration to try next.")
    stopper: str = Field("extrapolate", description="What decides which trials end early.")
    workers: WorkersSettings = Field(WorkersSettings(), description="Where trials run.")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="Seeds everything.")
    output: str | None = Field(
        None, description="Folder of the job, relative to the working folder; default: runs/NAME."
    )

    @field_validator("name")
    @classmethod
    def _is_plain(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[^\W_][\w.-]*", name):
            raise ValueError(
                f"expected letters, digits, dots, dashes and underscores, got {show(name)}"
            )
        return name
