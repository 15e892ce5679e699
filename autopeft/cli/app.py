"""The commands and their flags; each imports what it needs when it runs.

Nothing heavy is imported here, so that ``autopeft --help`` answers at once.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from autopeft.cli import failures
from autopeft.errors import AutopeftError

CommandFunction = TypeVar("CommandFunction", bound=Callable[..., None])

app = typer.Typer(
    name="autopeft",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Search for the parameter-efficient fine-tuning configuration worth training.",
    epilog="Start with: autopeft search examples/quickstart.yaml",
)


class TableFormat(StrEnum):
    """How a list is printed."""

    TABLE = "table"
    JSON = "json"


class ShowFormat(StrEnum):
    """How a job is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def _command(*, example: str) -> Callable[[CommandFunction], CommandFunction]:
    """Register a command whose docstring is its help and which teaches by an example."""

    def add(function: CommandFunction) -> CommandFunction:
        paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        app.command(help=text, epilog=f"Example: {example}")(function)
        return function

    return add


JobFile = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a job, its output.")]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="LIMIT",
        help="Only trials that keep it, in quotes: 'train_memory_bytes<=24GiB', "
        "'num_trainable_parameters<=2M', 'accuracy>=0.8'; can be repeated.",
        show_default=False,
    ),
]
ListFormat = Annotated[TableFormat, typer.Option("--format", help="How to print it.")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: Arguments without the program's name; those of the process where None.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    token = failures.job_folder.set(None)
    try:
        with failures.plain_warnings():
            app([word for word in arguments if word != "--debug"], prog_name="autopeft")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except AutopeftError as error:
        return failures.explain(error, debug=debug)
    except Exception as error:
        return failures.confess(error, debug=debug)
    finally:
        failures.job_folder.reset(token)
    return 0


def _show_version(value: bool) -> None:
    if value:
        import autopeft

        typer.echo(f"autopeft {autopeft.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")
    ] = False,
) -> None:
    """Keep the options that stand before a command; ``main`` acts on ``--debug``."""


@_command(example="autopeft search sst2.yaml --trials 12 --set training.batch_size=16")
def search(
    job: JobFile,
    output: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of the job.", show_default="the file's"),
    ] = None,
    trials: Annotated[int | None, typer.Option(metavar="N", help="Trials to propose.")] = None,
    proposer: Annotated[
        str | None, typer.Option(metavar="P", help="What to try next: mobo, random, lora-sweep.")
    ] = None,
    stopper: Annotated[
        str | None, typer.Option(metavar="S", help="What to end early: halving or none.")
    ] = None,
    executor: Annotated[
        str | None, typer.Option(metavar="E", help="Where trials run: ray or inline.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Trials trained at the same time.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of everything.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY.PATH=VALUE", help="Any key of the job file; can be repeated."
        ),
    ] = None,
) -> None:
    """Run the search that a job file describes.

    Shows progress, prints the Pareto front at the end and the commands that come next. Ctrl-C
    is safe: nothing recorded is lost, and `autopeft resume DIR` goes on. Flags win over the
    job file.
    """
    from autopeft.cli.running import search as run

    flags = {
        "output": output,
        "budget.trials": trials,
        "proposer": proposer,
        "stopper": stopper,
        "workers.executor": executor,
        "workers.num": workers,
        "seed": seed,
    }
    run(job, _overrides(flags, set_ or []))


@_command(example="autopeft resume runs/sst2 --trials 48")
def resume(
    folder: Folder,
    trials: Annotated[
        int | None, typer.Option(metavar="N", help="New limit of trials, for the whole job.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="New limit of optimiser steps.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(metavar="M", help="New limit of minutes.")
    ] = None,
    gpu_hours: Annotated[
        float | None, typer.Option(metavar="H", help="New limit of GPU-hours, or worker-hours.")
    ] = None,
) -> None:
    """Continue a job after Ctrl-C, a crash, or with a larger budget.

    Goes on where the log ends; a segment that was under way is trained again. On a finished
    job it only prints the front, unless a limit is raised.
    """
    from autopeft.cli.running import resume as run

    limits = {"trials": trials, "steps": steps, "minutes": minutes, "gpu_hours": gpu_hours}
    run(folder, {name: limit for name, limit in limits.items() if limit is not None})


@_command(example="autopeft show runs/sst2 --format json")
def show(
    folder: Folder,
    format_: Annotated[
        ShowFormat,
        typer.Option("--format", help="table and json tell of the front, csv of every trial."),
    ] = ShowFormat.TABLE,
    where: Where = None,
) -> None:
    """Show what a job has found so far; the job may still run.

    With --where it shows the front of the completed trials within limits. Memory is the measured
    peak where there is one, else the calibrated prediction.
    """
    from autopeft.cli.showing import show as run

    run(folder, format_.value, where or [])


@_command(example="autopeft export runs/sst2 --pick knee --to peft winner/")
def export(
    folder: Folder,
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder to write; must not exist yet.")
    ],
    pick: Annotated[
        str | None,
        typer.Option(
            metavar="WHICH",
            help="knee, best, smallest, or a number on the front.",
            show_default="knee; with --where best",
        ),
    ] = None,
    to: Annotated[str, typer.Option(metavar="TOOL", help="Training tool to write for.")] = "peft",
    where: Where = None,
) -> None:
    """Write one trial of a job for a training tool, checked before it is handed over.

    knee gives the best trade of the front, best the highest score, smallest the fewest
    trainable parameters. With --where it is the best that keeps the limits.
    """
    from autopeft.cli.exporting import export as run

    run(folder, pick=pick, tool=to, target=target, where=where or [])


@_command(example="autopeft confirm runs/sst2 --against runs/sst2-lora --seeds 3")
def confirm(
    folder: Folder,
    pick: Annotated[
        str, typer.Option(metavar="WHICH", help="knee, best, smallest, or a trial's number.")
    ] = "best",
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A job of `--proposer lora-sweep` on the same data; default: this job's own "
            "LoRA-sweep trials.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Retrainings of each.")] = 3,
    format_: ListFormat = TableFormat.TABLE,
    where: Where = None,
) -> None:
    """Retrain the winner and the best tuned LoRA, and compare them on the test split.

    A score found by searching is too good to be true; this one is not: new seeds, and rows that
    nothing has seen. It says so when the winner is no better than plain LoRA.
    """
    from autopeft.cli.confirming import confirm as run

    run(
        folder,
        pick=pick,
        against=against,
        num_seeds=seeds,
        format_=format_.value,
        where=where or [],
    )


@_command(example="autopeft check sst2.yaml --set budget.minutes=30")
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
        overrides=_overrides({"output": output}, set_ or []),
        wants_free=output is not None,
    )


@_command(example="autopeft plan sft.yaml --gpu-memory 24GiB --plot memory.svg")
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
        _overrides({}, set_ or []),
        gpu_memory=gpu_memory,
        tokens=tokens,
        asks_quote=quote,
        plot=plot,
        format_=format_.value,
    )


@_command(example="autopeft build docstring-lm")
def build(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="docstring-lm or its tiny twin.")],
    force: Annotated[
        bool, typer.Option("--force", help="Build it anew, also where it is there already.")
    ] = False,
    format_: ListFormat = TableFormat.TABLE,
) -> None:
    """Build a small language model on this machine, without a network, and keep it.

    docstring-lm is pretrained on the docstrings of the installed libraries, in about 20 minutes
    on two idle cores, at most 25. A search that names builtin:docstring-lm does the same at its
    first use. Ctrl-C is safe: the next call goes on where this one stopped.
    """
    from autopeft.cli.building import build as run

    run(model, force=force, format_=format_.value)


@_command(example="autopeft spaces --format json")
def spaces(format_: ListFormat = TableFormat.TABLE) -> None:
    """List the search spaces that a job file can name."""
    from autopeft.cli.catalogue import spaces as run

    run(format_.value)


@_command(example="autopeft methods --model Qwen/Qwen3-0.6B --task causal-lm")
def methods(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Tell what is available on this base model, and why the rest is not.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="TASK", help="What the model is for.", show_default=False),
    ] = None,
    format_: ListFormat = TableFormat.TABLE,
) -> None:
    """List the PEFT methods that can be searched: sizes, placement, tasks, where they run."""
    from autopeft.cli.catalogue import methods as run

    run(format_.value, model=model, task=task)


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


class Bits(StrEnum):
    """How frozen linear layers are quantised."""

    FOUR = "4bit"
    EIGHT = "8bit"


@_command(
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
        int, typer.Option(metavar="N", min=1, help="Examples that are computed together.")
    ] = 1,
    tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Tokens of each example, padding included.")
    ] = 512,
    dtype: Annotated[
        Dtype, typer.Option(help="Type of the frozen weights; adapters train in float32.")
    ] = Dtype.BFLOAT16,
    optimizer: Annotated[
        str, typer.Option(metavar="O", help="adamw, adamw-8bit, sgd, adafactor or lora-fa.")
    ] = "adamw",
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Compute each layer twice.")
    ] = False,
    quantization: Annotated[
        Bits | None, typer.Option(help="Frozen linear layers in few bits.", show_default="none")
    ] = None,
    attention: Annotated[
        AttentionKind, typer.Option(help="Who computes attention; auto is transformers' choice.")
    ] = AttentionKind.AUTO,
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

    step = Step(
        batch_size=batch_size,
        tokens=tokens,
        dtype=dtype.value,
        optimizer=optimizer,
        gradient_checkpointing=gradient_checkpointing,
        quantization=None if quantization is None else quantization.value,
        attention=attention.value,
        task=task,
        device=device.value,
    )
    run(model, peft, step, format_.value)


@_command(example="autopeft doctor")
def doctor(format_: ListFormat = TableFormat.TABLE) -> None:
    """Tell versions and devices, what is missing, and the command that installs it."""
    from autopeft.cli.doctor import doctor as run

    run(format_.value)


def _overrides(flags: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Join flags that were given and ``--set`` pairs; a flag wins over the same key set."""
    from autopeft.service.raw_job import parse_override

    overrides = dict(parse_override(text) for text in settings)
    return {**overrides, **{key: value for key, value in flags.items() if value is not None}}
