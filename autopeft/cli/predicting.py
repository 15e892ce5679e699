"""``autopeft predict``: what one training step of one configuration will need."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from autopeft.errors import AutopeftError, InvalidSpaceError
from autopeft.naming import or_nearest
from autopeft.results.report import bytes_text
from autopeft.workers.openmp import share_cores

if TYPE_CHECKING:
    from autopeft.records import ModelShape
    from autopeft.workers.settings import Attention, SavedActivations

_BAR = 30
#: When the peak is.
_PHASES = {
    "forward": "in the forward pass",
    "backward": "in the backward pass",
    "optimizer": "in the optimiser's step",
}
#: What each component holds, for people.
_MEANINGS = {
    "weights": "frozen weights and buffers",
    "adapter": "what trains",
    "gradients": "its gradients at the peak",
    "optimizer_state": "the optimiser's state",
    "activations": "kept from forward to backward",
    "transients": "what the peak adds for a moment",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The training step that is asked about, as its flags say it."""

    tokens: int
    batch_size: int = 1
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    optimizer: str = "adamw"
    gradient_checkpointing: bool = False
    quantization: str | None = None
    attention: Attention = "auto"
    saved_activations: SavedActivations = "full"
    task: str = "causal-lm"
    device: Literal["cuda", "cpu"] = "cuda"


#: Training settings that a configuration of ours may hold and a step is made of.
TRAINING = ("batch_size", "optimizer", "gradient_checkpointing", "saved_activations")


def predict(
    model: str, peft: Path | None, step: Step, format_: str, *, given: frozenset[str] = frozenset()
) -> None:
    """Print the prediction as ``table`` or ``json``.

    Args:
        model: Hub name, folder, built-in model, or a ``config.json`` alone.
        peft: An ``adapter_config.json`` or a configuration of ours; None trains every weight.
        step: The step.
        format_: ``table`` or ``json``.
        given: Fields of the step that somebody asked for; of the others a configuration of ours
            may hold its own training settings.

    Raises:
        AutopeftError: model, configuration or both together are wrong.
    """
    written = None if peft is None else _read(peft)
    step = _as_trained(step, written, given)
    found = prediction(model, written, step)
    if format_ == "json":
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _print_table(found, step)


def _as_trained(step: Step, written: Mapping[str, Any] | None, given: frozenset[str]) -> Step:
    """Return the step with the training settings that a configuration was searched with."""
    training = (written or {}).get("training")
    if not isinstance(training, Mapping):
        return step
    chosen = {name: training[name] for name in TRAINING if name in training and name not in given}
    parts = training.get("gradient_accumulation", 1)
    if "batch_size" in chosen and isinstance(parts, int) and parts > 1:
        chosen["batch_size"] = max(1, chosen["batch_size"] // parts)
    return replace(step, **chosen)


def prediction(model: str, written: Mapping[str, Any] | None, step: Step) -> dict[str, Any]:
    """Return what ``--format json`` prints.

    Args:
        model: As for :func:`predict`.
        written: A PEFT config or a configuration of ours; None trains every weight.
        step: The step.

    Raises:
        AutopeftError: as :func:`predict`.
    """
    share_cores()
    import torch

    from autopeft.workers.foreign_adapters import build_described
    from autopeft.workers.memory import MemoryModel
    from autopeft.workers.memory.optimizers import OPTIMIZERS
    from autopeft.workers.models import quiet_transformers
    from autopeft.workers.tasks.base import TASKS

    if step.optimizer not in OPTIMIZERS:
        raise AutopeftError(
            f"--optimizer: unknown optimizer {step.optimizer!r}"
            f"{or_nearest(step.optimizer, OPTIMIZERS)}",
            hint=f"choose one of: {', '.join(OPTIMIZERS)}",
        )
    if step.task not in TASKS.names():
        raise AutopeftError(
            f"--task: unknown task {step.task!r}{or_nearest(step.task, TASKS.names())}",
            hint=f"choose one of: {', '.join(TASKS.names())}",
        )
    with quiet_transformers():
        config, shape = _described(model, step)
        memory = MemoryModel(
            config,
            shape,
            batch_size=step.batch_size,
            tokens=step.tokens,
            task=step.task,
            dtype=getattr(torch, step.dtype),
            device=step.device,
            optimizer=step.optimizer,
            attention=step.attention,
            saved_activations=step.saved_activations,
            loss_of="model",
            in_float32=False,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PEFT says while it builds
            method, built = build_described(memory, shape, written)
            try:
                estimate = memory.account_for(built)
            except Exception as error:  # whatever a model does that has no answer without numbers
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise InvalidSpaceError(
                    f"{method} cannot be run without numbers on {shape.name}: {reason}",
                    hint="leave out --gradient-checkpointing where it is given, or measure it: "
                    "autopeft search trains it",
                ) from error
    return {
        "model": model if Path(model).is_file() else shape.name,
        "method": method,
        "num_trainable_parameters": sum(p.numel() for p in built.parameters() if p.requires_grad),
        "peak_memory_bytes": estimate.total_bytes,
        "components": {name: size for name, size in estimate.components.items() if name != "total"},
        "phase": estimate.phase,
        "step": asdict(step),
    }


def _assumed(step: Step) -> str:
    """Say what the step is like, flags that were left out included."""
    weights = f"{step.quantization} base" if step.quantization else f"{step.dtype} base"
    checkpointing = " with gradient checkpointing" if step.gradient_checkpointing else ""
    packed = ", activations in 4 bits" if step.saved_activations == "4bit" else ""
    return (
        f"one step of {step.task} on {step.device}: batch of {step.batch_size}, {step.tokens} "
        f"tokens an example, {weights}, {step.optimizer}{checkpointing}{packed}"
    )


def _read(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    if path.is_dir():
        path = path / "adapter_config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSpaceError(
            f"cannot read {str(path)!r}: {error.strerror or error}",
            hint="--peft takes an adapter_config.json, or a configuration as autopeft writes it",
        ) from error
    except ValueError as error:
        raise InvalidSpaceError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidSpaceError(f"{str(path)!r} holds {type(found).__name__}, not an object")
    return found


def _described(model: str, step: Step) -> tuple[Any, ModelShape]:
    """Return config and shape of the model."""
    from autopeft.workers.model_sources import resolve_config
    from autopeft.workers.models import load_config
    from autopeft.workers.settings import ModelSettings
    from autopeft.workers.shapes import model_shape
    from autopeft.workers.tasks.base import TASKS

    outputs = 2 if TASKS.get(step.task).has_head else 0
    settings = ModelSettings.model_validate({"name": model, "attention": step.attention})
    source = resolve_config(settings, Path.cwd())
    config = load_config(source, outputs, None, step.task)
    shape = model_shape(source, config, step.task)
    return config, replace(
        shape,
        uses_gradient_checkpointing=step.gradient_checkpointing,
        quantization=step.quantization,
    )


def _print_table(found: Mapping[str, Any], step: Step) -> None:
    total = found["peak_memory_bytes"]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("component", no_wrap=True)
    table.add_column("at the peak", justify="right")
    table.add_column("", no_wrap=True)
    table.add_column("what it is")
    for name, size in found["components"].items():
        bar = "█" * round(_BAR * size / total)
        table.add_row(name.replace("_", " "), bytes_text(size), bar, _MEANINGS[name])
    console = Console()
    console.print(
        f"{found['method']} on {found['model']}", markup=False, highlight=False, soft_wrap=True
    )
    console.print(
        f"trains {found['num_trainable_parameters']:,} parameters; needs {bytes_text(total)} "
        f"({total:,} bytes) at the most, {_PHASES[found['phase']]}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_assumed(step), highlight=False, soft_wrap=True)
    console.print(table)
