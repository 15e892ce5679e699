"""What a user may say about model, data, training and workers; no torch is imported here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from autopeft.search_spaces.configuration import Training
from autopeft.sizes import parse_bytes

PositiveInt = Annotated[int, Field(ge=1)]
Precision = Literal["auto", "float32", "bfloat16"]
Attention = Literal["auto", "eager", "sdpa", "flash_attention_2"]
SavedActivations = Literal["full", "4bit"]
OptimizerName = Literal["adamw", "adamw-8bit", "sgd", "adafactor", "lora-fa"]


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
    messages: str | None = Field(
        None, description="Column with conversations: lists of {role, content}."
    )
    prompt: str | None = Field(
        None, description="Column with what a language model is given, or the source text."
    )
    completion: str | None = Field(
        None, description="Column with what it is to write, or the target text."
    )
    tokens: str | None = Field(None, description="Column with lists of words to be tagged.")
    tags: str | None = Field(None, description="Column with lists of tags, one for each word.")
    choices: str | None = Field(
        None, description="Column with lists of answers, one of which is right."
    )
    question: str | None = Field(
        None,
        description="Column with what is asked about the text of a multiple choice; cause and "
        "effect are written out.",
    )
    image: str | None = Field(
        None, description="Column with pictures: pixels, encoded files, or paths of files."
    )
    audio: str | None = Field(
        None, description="Column with recordings: 16-bit samples in base64, or WAV files."
    )
    sample_rate: str | None = Field(None, description="Column with samples per second.")


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
    chat_template: str | None = Field(
        None,
        description="Writes conversations for a language model: chatml, plain, or a Jinja file; "
        "default: the tokenizer's own.",
    )
    label_names: list[str] | None = Field(
        None, description="Names of the labels (or tags) 0, 1, ..., where the data have numbers."
    )
    image_shape: list[PositiveInt] | None = Field(
        None,
        min_length=3,
        max_length=3,
        description="Height, width and channels of pictures given as bytes of pixels; default: "
        "square ones, as many bytes as there are.",
    )
    sample_rate: PositiveInt | None = Field(
        None, description="Samples per second of recordings that do not say it themselves."
    )
    limit: RowLimits = RowLimits()


class ModelSettings(Settings):
    """The base model that stays frozen."""

    name: str = Field(description="Hub name, folder with safetensors, or builtin:minilm.")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub model.")
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model.")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        "float32", description="Type of the frozen weights; auto takes the checkpoint's own."
    )
    quantization: Literal["4bit", "8bit"] | None = Field(
        None, description="Store frozen linear layers in fewer bits; needs bitsandbytes."
    )
    attention: Attention = Field(
        "auto",
        description="Who computes attention; auto is transformers' choice, sdpa where a model has "
        "it. eager keeps a number for each pair of tokens; flash_attention_2 needs a GPU and the "
        "package flash-attn.",
    )
    sites: dict[str, str] = Field(
        {},
        description="Sites named by hand, such as q: attention.wq (the end of a module path, or "
        "a regular expression for all of it); needed only where they are not found.",
    )


class TrainingSettings(Settings):
    """How each trial is trained."""

    batch_size: PositiveInt = Field(32, description="Examples in one optimiser step.")
    max_tokens: Annotated[int, Field(ge=4)] = Field(
        128, description="Longer examples are truncated."
    )
    packing: bool = Field(
        False,
        description="Put several examples of a causal language model into one sequence of up to "
        "max_tokens; batch_size then counts sequences.",
    )
    steps: PositiveInt = Field(96, description="Optimiser steps of a trial trained to the end.")
    epochs: Annotated[float, Field(gt=0.0)] | None = Field(
        None, description="Passes over the training rows, in place of steps."
    )
    gradient_accumulation: PositiveInt = Field(
        1, description="Parts a batch is computed in, one after the other, to save memory."
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute each layer twice and keep its output alone, to save memory."
    )
    saved_activations: SavedActivations = Field(
        "full",
        description="How normalisations, activation functions and the products of gated "
        "feed-forward blocks keep what they need for the backward pass; 4bit saves memory, takes "
        "more time, and makes gradients inexact.",
    )
    precision: Precision = Field(
        "auto",
        description="Of the matrix products; auto is bfloat16 where the base model is stored in "
        "half precision or quantised, else float32.",
    )
    optimizer: OptimizerName = Field(
        "adamw",
        description="adamw-8bit keeps its moments in 8 bits and needs bitsandbytes; sgd keeps "
        "nothing; adafactor keeps rows and columns of the second moments; lora-fa is adamw over "
        "LoRA whose first matrices stay as they start.",
    )
    schedule: Literal["cosine", "linear", "constant", "wsd"] = Field(
        "cosine",
        description="Learning rate over the full steps, after warm-up. wsd keeps it and lets it "
        "fall at the end only; what is scored earlier is a short branch with a fall of its own.",
    )
    decay_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.2, description="Part of the steps over which the learning rate of wsd falls."
    )
    branch_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.1,
        description="Steps of a branch under wsd, as a part of the steps done; at least 2. They "
        "come on top of the steps.",
    )
    averaging: Literal["none", "tail"] = Field(
        "none",
        description="tail scores and keeps a running average of the trained weights over the "
        "last part of the steps done; training goes on from the weights themselves.",
    )
    averaging_window: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.2, description="Part of the steps done that the average is over, about."
    )
    warmup_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.06, description="Part of the steps with a linearly growing learning rate."
    )
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="Decoupled weight decay."
    )
    max_grad_norm: Annotated[float, Field(gt=0.0)] = Field(1.0, description="Gradient clipping.")
    evaluation_batch_size: PositiveInt = Field(64, description="Examples per evaluation batch.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        default = type(self).model_fields["steps"].default
        if self.epochs is not None and self.steps != default:
            raise ValueError("epochs and steps both set the length of a trial; give one of them")
        if self.gradient_accumulation > self.batch_size:
            raise ValueError(
                f"gradient_accumulation is {self.gradient_accumulation}, more parts than the "
                f"batch has examples ({self.batch_size})"
            )
        if self.schedule == "wsd" and self.averaging != "none":
            raise ValueError(
                f"averaging is {self.averaging} and the schedule is wsd: an average stands in "
                "for a falling learning rate; give one of them"
            )
        return self

    @property
    def micro_batch_size(self) -> int:
        """Examples that go through the model together, at most."""
        return -(-self.batch_size // self.gradient_accumulation)

    def updated(self, training: Training) -> TrainingSettings:
        """Return the settings with a configuration's own in place of some.

        Raises:
            ValidationError: they are no settings of training, or do not go together.
        """
        if not training:
            return self
        return type(self).model_validate({**self.model_dump(), **dict(training)}, strict=True)

    def resolved(self, num_examples: int) -> TrainingSettings:
        """Return the settings with the steps that the epochs come to.

        Args:
            num_examples: Examples of the training split, as they are trained on.
        """
        if self.epochs is None:
            return self
        steps = max(1, math.ceil(self.epochs * num_examples / self.batch_size))
        return self.model_copy(update={"steps": steps, "epochs": None})


class GenerationSettings(Settings):
    """How answers are generated for trials that reach the last step; needs a metric."""

    max_new_tokens: PositiveInt = Field(64, description="Tokens of an answer at most.")
    rows: PositiveInt = Field(
        200, description="Rows of the validation split that are answered, drawn with the seed."
    )
    batch_size: PositiveInt = Field(32, description="Answers generated at the same time.")


class RetentionSettings(Settings):
    """The general text on which a causal language model is to stay as good as it was."""

    data: str | None = Field(
        None,
        description="File with texts (jsonl, csv or parquet), relative to this one; default: "
        "documentation of installed libraries.",
    )
    column: str = Field("text", description="Column of the file with the texts.")
    rows: PositiveInt = Field(128, description="Texts at most, drawn with the seed.")
    max_tokens: Annotated[int, Field(ge=4)] = Field(128, description="Longer texts are cut.")


def _bytes_of_size(value: Any) -> Any:
    return parse_bytes(value) if isinstance(value, str) else value


class WorkersSettings(Settings):
    """Where segments run."""

    executor: str = Field("ray", description="ray, or inline for one process.")
    num: PositiveInt = Field(1, description="Trials trained at the same time.")
    cpus: PositiveInt | None = Field(None, description="CPU cores of a worker; default: all / num.")
    gpus: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="GPUs of a worker; fractions share one."
    )
    memory: (
        Annotated[PositiveInt, BeforeValidator(_bytes_of_size, json_schema_input_type=int | str)]
        | None
    ) = Field(
        None,
        description="Memory a worker may train in, such as 24GiB: what needs more is never sent. "
        "Default: the GPU's, or its part of it; no limit on the CPU.",
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
    num_outputs: Annotated[int, Field(ge=0)]
    seed: int
    checkpoints: Path
    num_threads: PositiveInt = 1
    memory_bytes: PositiveInt | None = Field(
        None, description="What a trial may need; on the CPU of what is accounted for."
    )
