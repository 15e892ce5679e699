"""The JSON schema of job files, for editors that complete and check them.

``job.schema.json`` beside this module holds what :func:`schema_text` returns; a test sees to
it. To bring it up to date: ``autopeft check --schema > autopeft/service/job.schema.json``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from autopeft.records import COST_NAMES
from autopeft.search_spaces.space import preset_names
from autopeft.service.job_checks import BUILTIN_DATA, BUILTIN_MODELS
from autopeft.service.job_settings import JobSettings
from autopeft.service.known_names import built_in_names
from autopeft.workers.tasks.metric_names import METRIC_NAMES, METRICS_BY_TASK

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def job_schema() -> dict[str, Any]:
    """Return the schema as plain JSON.

    Names that packages can add to (proposers, tasks, ...) are given as examples, so that an
    editor offers them and accepts others.
    """
    schema = JobSettings.model_json_schema()
    properties = schema["properties"]
    examples: dict[str, Sequence[str]] = {
        "model": BUILTIN_MODELS,
        "data": BUILTIN_DATA,
        "task": ("auto", *METRICS_BY_TASK),
        "space": preset_names(),
        "proposer": built_in_names("proposers"),
        "stopper": built_in_names("stoppers"),
    }
    for name, values in examples.items():
        properties[name]["examples"] = list(values)
    executors = schema["$defs"]["WorkersSettings"]["properties"]["executor"]
    executors["examples"] = list(built_in_names("executors"))
    for choice in properties["objectives"]["anyOf"]:
        if choice.get("type") == "array":
            choice["items"]["examples"] = [*METRIC_NAMES, *COST_NAMES]
    return {"$schema": DIALECT, **schema, "title": "AutoPEFT job"}


def schema_text() -> str:
    """Return the schema as it stands in ``job.schema.json``."""
    return json.dumps(job_schema(), indent=2, ensure_ascii=False) + "\n"
