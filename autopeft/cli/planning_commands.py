"""Commands that look ahead, and their flags: check, plan, predict."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from autopeft.cli.flags import JobFile, ListFormat, TableFormat, overrides_of
from autopeft.cli.typer_app import command


@command(example="autopeft check sst2.yaml --set budget.minutes=30")
def check(
    job: Annotated[
        Path | None, typer.Argument(metavar="JOB.yaml", help="The job file.", show_default=False)
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of job files, for editors.")
    ] = False,
    output: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="As for search; must be free.", show_default="the file's"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="As for search; can be repeated."),
    ] = None,
) -> None:
    """Check a job file and list every problem in it, without running anything.

    With --schema it prints the JSON schema that editors complete and check job files with.
    """
    from autopeft.cli.checking import check as run

    run(
        job,
        schema=schema,
        overrides=overrides_of({"output": output}, set_ or []),
        wants_free=output is not None,
    )


@command(example="autopeft plan sft.yaml --gpu-memory 24GiB --plot memory.svg")
def plan(
    job: JobFile,
    gpu_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory to fit into: 24GiB, 80GB.", show_default=False),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Tokens of each example.", show_default="the data's longest"
        ),
    ] = None,
    quote: Annotated[
        bool, typer.Option("--quote", help="Time a few steps and tell what the search costs.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a chart: .svg or .html.", show_default=False),
    ] = None,
    format_: ListFormat = TableFormat.TABLE,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="As for search; can be repeated."),
    ] = None,
) -> None:
    """Tell what fits into a GPU's memory, and what a search will cost, before it starts.

    Memory needs no GPU, no weights and no data: a config.json does for the model, then with
    --tokens. --quote runs a few steps of representative configurations on the job's workers.
    """
    from autopeft.cli.planning import plan as run

    run(
        job,
        overrides_of({}, set_ or []),
        gpu_memory=gpu_memory,
        tokens=tokens,
        asks_quote=quote,
        plot=plot,
        format_=format_.value,
    )


class Dtype(StrEnum):
    """Type that the frozen part is stored and computed in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Accelerator(StrEnum):
    """What trains."""

    CUDA = "cuda"
    CPU = "cpu"


class AttentionKind(StrEnum):
    """Implementation of attention."""

    AUTO = "auto"
    EAGER = "eager"
    SDPA = "sdpa"
    FLASH = "flash_attention_2"


class SavedActivations(StrEnum):
    """How nonlinear parts keep what they need for the backward pass."""

    FULL = "full"
    FOUR = "4bit"


class Bits(StrEnum):
    """How frozen linear layers are quantised."""

    FOUR = "4bit"
    EIGHT = "8bit"


@command(
    example="autopeft predict --model meta-llama/Llama-3.2-3B --peft adapter_config.json "
    "--batch-size 4 --tokens 660"
)
def predict(
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Hub name, folder, builtin:..., or a config.json.")
    ],
    peft: Annotated[
        Path | None,
        typer.Option(
            metavar="CONFIG.json",
            help="An adapter_config.json of any PEFT type, or a configuration of AutoPEFT's.",
            show_default="every weight trains",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Examples that are computed together.",
            show_default="that of CONFIG.json, or 1",
        ),
    ] = None,
    tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Tokens of each example, padding included.")
    ] = 512,
    dtype: Annotated[
        Dtype, typer.Option(help="Type of the frozen weights; adapters train in float32.")
    ] = Dtype.BFLOAT16,
    optimizer: Annotated[
        str | None,
        typer.Option(
            metavar="O",
            help="adamw, adamw-8bit, sgd, adafactor or lora-fa.",
            show_default="that of CONFIG.json, or adamw",
        ),
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing/--no-gradient-checkpointing",
            help="Compute each layer twice.",
            show_default="as CONFIG.json says, or not",
        ),
    ] = None,
    quantization: Annotated[
        Bits | None, typer.Option(help="Frozen linear layers in few bits.", show_default="none")
    ] = None,
    attention: Annotated[
        AttentionKind, typer.Option(help="Who computes attention; auto is transformers' choice.")
    ] = AttentionKind.AUTO,
    saved_activations: Annotated[
        SavedActivations | None,
        typer.Option(
            help="How nonlinear parts keep theirs for going back.",
            show_default="as CONFIG.json says, or full",
        ),
    ] = None,
    task: Annotated[str, typer.Option(metavar="TASK", help="What is trained.")] = "causal-lm",
    device: Annotated[Accelerator, typer.Option(help="Whose kernels count.")] = Accelerator.CUDA,
    format_: ListFormat = TableFormat.TABLE,
) -> None:
    """Predict the peak memory of training, by component, without weights and without a GPU.

    Builds model and adapter in shape alone, runs one training step of them and counts every
    tensor. Needs nothing of the model but its config. For what a whole job needs: autopeft plan.
    """
    from autopeft.cli.predicting import Step
    from autopeft.cli.predicting import predict as run

    asked = {
        "batch_size": batch_size,
        "optimizer": optimizer,
        "gradient_checkpointing": gradient_checkpointing,
        "saved_activations": None if saved_activations is None else saved_activations.value,
    }
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    step = Step(
        tokens=tokens,
        dtype=dtype.value,
        quantization=None if quantization is None else quantization.value,
        attention=attention.value,
        task=task,
        device=device.value,
        **given,
    )
    run(model, peft, step, format_.value, given=frozenset(given))
