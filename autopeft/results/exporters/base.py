"""The seam ``Exporter``: a trial, written for one training tool."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from autopeft.records import TrialState
from autopeft.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """All that an exporter may use.

    Attributes:
        state: The completed trial.
        checkpoint: Folder of its checkpoint at the last step. Holds ``adapter/`` as PEFT's
            ``save_pretrained`` writes it (for several methods at once, ``adapter/<method>/``
            for each part, and ``adapter/head.safetensors`` where the task has a head).
        assets: Folder prepared by a worker at the start of the job: tokenizer files and
            ``autopeft.json`` with ``base_model`` (public name), ``task``, ``metric``,
            ``id2label`` (or null), ``max_tokens``, ``text_columns``, ``num_labels``.
        job: The job as the user wrote it, validated, JSON-able.
    """

    state: TrialState
    checkpoint: Path
    assets: Path
    job: Mapping[str, Any]


class Exporter(ABC):
    """Write files one training tool accepts, or say what cannot be expressed.

    Contract: ``write`` fills a folder that does not exist yet and leaves nothing behind when
    it fails (it writes beside it and renames); it loads no model.
    """

    tool: ClassVar[str]

    @abstractmethod
    def obstacles(self, request: ExportRequest) -> list[str]:
        """Return what this tool cannot express of the trial; empty where all is well."""

    @abstractmethod
    def write(self, request: ExportRequest, target: Path) -> None:
        """Write the files into ``target``.

        Raises:
            ExportError: ``target`` exists and is not empty, or the trial has obstacles.
        """


EXPORTERS: Registry[Exporter] = Registry("exporters", package="autopeft.results.exporters")
