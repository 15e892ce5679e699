"""Rebuild an export with transformers and PEFT alone, and compare what it predicts."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from autopeft.errors import ExportError, JobFolderError, ModelError
from autopeft.workers.adapter_tensors import fill_adapter
from autopeft.workers.assets import read_assets
from autopeft.workers.checkpoints import read_adapter
from autopeft.workers.dataset import Rows
from autopeft.workers.heads import is_below
from autopeft.workers.injection import (
    inject_parts,
    injection_order,
    keep_in_float32,
    known_warnings,
)
from autopeft.workers.model_sources import ModelSource
from autopeft.workers.models import (
    auto_class,
    head_paths,
    lacking_modules,
    quiet_transformers,
)
from autopeft.workers.processors import load_processor
from autopeft.workers.quantization import quantization_arguments, settle
from autopeft.workers.settings import Precision
from autopeft.workers.tasks.base import TASKS, EncodingSettings, Task
from autopeft.workers.training import autocast, evaluate

#: Differences below this part of the outputs' standard deviation are rounding: of float32, and
#: of matrix products in bfloat16, whose numbers have 16 bits fewer.
ROUNDING = 1e-4
ROUNDING_BFLOAT16 = 0.05

_CONFIG = "adapter_config.json"
_FLOAT32 = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """How an export compares with what the search recorded.

    Attributes:
        num_rows: Rows compared.
        max_abs_difference: Largest difference of any raw output.
        num_prediction_mismatches: Rows that differ by more than rounding, which is
            :data:`ROUNDING` (:data:`ROUNDING_BFLOAT16`) of the recorded outputs' standard
            deviation (another device sums in another order): whose recorded class leads the
            rebuilt one by more than that, or, for regression and language models, whose values
            lie further apart.
        metric: Name of the metric.
        metric_value: The metric of the rebuilt model, in its own orientation.
        recorded_metric_value: The same of the recorded outputs.
    """

    num_rows: int
    max_abs_difference: float
    num_prediction_mismatches: int
    metric: str
    metric_value: float
    recorded_metric_value: float

    @property
    def is_exact(self) -> bool:
        """Whether every prediction is the same, up to rounding."""
        return self.num_prediction_mismatches == 0


def verify_export(
    folder: Path,
    rows: Rows,
    recorded: Path | tuple[NDArray[np.float32], NDArray[Any]],
    *,
    base_folder: Path | None = None,
    batch_size: int = 64,
    precision: Precision = "auto",
    device: str = "cpu",
) -> VerifyReport:
    """Load an export as a stranger would and compare it with the recorded outputs.

    Tokenizer, adapter and head come from the export; rows are tokenised again. Only the base
    model may come from elsewhere.

    Args:
        folder: The export: adapter, tokenizer files and ``autopeft.json``.
        rows: The search-validation rows, in their order.
        recorded: ``validation.safetensors`` of the checkpoint, or its outputs and labels.
        base_folder: Local copy of the base model; by default its public name is loaded.
        batch_size: Rows in one batch.
        precision: What the job trained and scored in.
        device: Where to predict, best where the job did.

    Raises:
        ExportError: something is missing from the export, or it cannot be loaded.
        ModelError: the base is quantised, and bitsandbytes is missing.
    """
    outputs, labels = _recorded(recorded) if isinstance(recorded, Path) else recorded
    facts = _facts(folder)
    task = TASKS.get(facts["task"])()
    if task.label_kind != "none" and len(outputs) != len(rows):
        raise ExportError(f"{len(outputs)} rows were recorded, {len(rows)} are to be compared")
    model = load_export(folder, base_folder=base_folder, device=device)
    rebuilt = _predict(task, model, folder, rows, labels, facts, batch_size, precision)
    is_rough = not isinstance(autocast(model, precision), nullcontext)
    rounding = ROUNDING_BFLOAT16 if is_rough else ROUNDING
    if len(outputs) != len(rebuilt):
        # A language model leaves rows out that are too long to have a token to train on.
        raise ExportError(f"{len(outputs)} rows were recorded, {len(rebuilt)} are to be compared")
    metric = facts["metric"]
    return VerifyReport(
        num_rows=len(rebuilt),
        max_abs_difference=float(np.abs(rebuilt - outputs).max(initial=0.0)),
        num_prediction_mismatches=int(task.mismatches(rebuilt, outputs, rounding).sum()),
        metric=metric,
        metric_value=task.predictions_to_metrics(rebuilt, labels)[metric],
        recorded_metric_value=task.predictions_to_metrics(outputs, labels)[metric],
    )


def load_export(folder: Path, *, base_folder: Path | None = None, device: str = "cpu") -> Any:
    """Return the exported model in evaluation mode, by transformers and PEFT.

    The frozen base is stored as in the search; what was trained is float32.

    Raises:
        ExportError: something is missing from the export, or it cannot be loaded.
        ModelError: the base is quantised, and bitsandbytes is missing.
    """
    facts = _facts(folder)
    for name in facts.get("needs_modules") or ():
        importlib.import_module(name)  # makes methods known to PEFT that are not its own
    head = {"num_labels": facts["num_labels"]} if facts["num_labels"] else {}
    source = ModelSource(
        location=str(base_folder or facts["base_model"]),
        public_name=facts["base_model"],
        revision=facts.get("revision"),
        trust_remote_code=bool(facts.get("trust_remote_code", False)),
        dtype=facts.get("dtype", "float32"),
        quantization=facts.get("quantization"),
    )
    try:
        with quiet_transformers(), known_warnings(), torch.random.fork_rng(devices=[]):
            base = auto_class(facts["task"]).from_pretrained(
                source.location,
                **head,
                use_safetensors=True,
                dtype=source.dtype,
                trust_remote_code=source.trust_remote_code,
                revision=source.revision or "main",
                **quantization_arguments(source, device, facts.get("kept_in_full", ())),
            )
            base = settle(base)
            base.name_or_path = source.public_name
            heads = head_paths(base, lacking_modules(base, source))
            load = _load_single if (folder / _CONFIG).is_file() else _load_parts
            model = load(base, folder, heads)
            if source.quantization is None:
                model = model.to(device)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ExportError(f"cannot load the export {folder}: {reason}") from error
    return model.eval()


def _load_single(base: Any, folder: Path, head: tuple[str, ...]) -> Any:
    """Load one plain PEFT adapter as its users do."""
    from peft import PeftModel, load_peft_weights, set_peft_model_state_dict

    frozen = _frozen(base, head)
    model = PeftModel.from_pretrained(base, str(folder))
    if base.dtype.itemsize < _FLOAT32:
        # PEFT copies head and normalisations in the base's precision, and loads into the copies.
        keep_in_float32(p for p in model.parameters() if id(p) not in frozen)
        tensors = load_peft_weights(str(folder), device="cpu")
        set_peft_model_state_dict(model, tensors)
    return model


def _load_parts(base: Any, folder: Path, head: tuple[str, ...]) -> Any:
    """Inject each part as its own files describe it, in the order of training."""
    from peft import PeftConfig

    home = folder if any(folder.glob(f"*/{_CONFIG}")) else folder / "adapter"
    configs = {
        path.parent.name: PeftConfig.from_pretrained(str(path.parent))
        for path in sorted(home.glob(f"*/{_CONFIG}"))
    }
    if not configs:
        raise OSError(f"it holds neither {_CONFIG} nor parts that have one")
    frozen = _frozen(base, head)
    ordered = dict(sorted(configs.items(), key=lambda item: injection_order(item[1])))
    model = inject_parts(base, ordered)
    keep_in_float32(p for p in model.parameters() if id(p) not in frozen)
    fill_adapter(model, head, read_adapter(home))
    return model


def _frozen(base: Any, head: tuple[str, ...]) -> set[int]:
    """Return the ``id`` of each parameter outside the head."""
    return {id(p) for name, p in base.named_parameters() if not is_below(name, head)}


def _predict(
    task: Task,
    model: Any,
    folder: Path,
    rows: Rows,
    labels: NDArray[Any],
    facts: Mapping[str, Any],
    batch_size: int,
    precision: Precision,
) -> NDArray[np.float32]:
    try:
        processor = load_processor(
            ModelSource(location=str(folder), public_name=folder.name), model.config, task.modality
        )
    except ModelError as error:
        raise ExportError(f"the export {folder}: {error.message}", hint=error.hint) from error
    settings = EncodingSettings(max_tokens=facts["max_tokens"])
    split = task.encode(rows, labels, processor, settings)
    pad_token_id = facts["padding"]["pad_token_id"]
    return evaluate(
        model,
        split,
        task,
        batch_size=batch_size,
        pad_token_id=pad_token_id,
        precision=precision,
    )


def _facts(folder: Path) -> dict[str, Any]:
    try:
        return read_assets(folder)
    except JobFolderError as error:
        raise ExportError(error.message, hint=error.hint) from error


def _recorded(path: Path) -> tuple[NDArray[np.float32], NDArray[Any]]:
    try:
        tensors = load_file(path)
        return tensors["outputs"].numpy(), tensors["labels"].numpy()
    except (OSError, KeyError, SafetensorError) as error:
        raise ExportError(f"cannot read the recorded outputs {path}: {error}") from error
