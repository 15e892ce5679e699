"""A recorded table: every curve of many configurations of one space on one task, in one file.

A table is a parquet file with one row a measurement and, in its metadata, what is needed to look
things up in it without model and data: the model's shape, the space, the scale of the objectives.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autopeft.errors import AutopeftError
from autopeft.records import ModelShape, TrialStatus
from autopeft.results.front import ObjectiveScale
from autopeft.results.job_log import JobLog
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.space import SearchSpace, load_space

if TYPE_CHECKING:
    import pandas as pd

#: Where trials of a table are measured, as parts of the full steps.
RUNGS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)
#: Times that the variance over configurations must exceed that over seeds for a table to tell
#: configurations apart.
MIN_SIGNAL = 4.0
#: Key of our facts in the file's metadata.
FACTS_KEY = b"autopeft"
SCHEMA_VERSION = 1


def rungs_of(max_steps: int) -> tuple[int, ...]:
    """Return the steps at which trials of a table are measured, the last one included."""
    steps = (round(max_steps * part) for part in RUNGS)
    return tuple(sorted({step for step in steps if step >= 1} | {max_steps}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How much of the spread of final scores is due to configurations, how much to seeds.

    Attributes:
        num_configurations: Completed random configurations that were trained from two seeds.
        between: Variance of final scores over configurations, that of seeds taken off.
        within: Variance over seeds of one configuration, pooled.
    """

    num_configurations: int
    between: float
    within: float

    @property
    def ratio(self) -> float:
        """Variance over configurations by that over seeds; infinite where seeds make none."""
        return self.between / self.within if self.within > 0 else float("inf")

    @property
    def is_enough(self) -> bool:
        """Whether a table with this noise tells configurations apart."""
        return self.num_configurations > 1 and self.ratio >= MIN_SIGNAL

    def __str__(self) -> str:
        """Say it in words."""
        return (
            f"variance over {self.num_configurations} configurations is {self.ratio:.3g} times "
            f"that over seeds (standard deviations {self.between**0.5:.4f} and "
            f"{self.within**0.5:.4f}); {MIN_SIGNAL:g} times are needed"
        )


@dataclass(frozen=True, kw_only=True)
class Table:
    """Recorded curves.

    Attributes:
        rows: One a measurement, by trial and growing step, with columns ``trial``, ``key``
            and ``configuration`` (JSON), ``origin``, ``seed``, ``step``, ``score`` (more is
            better; NaN where training diverged), ``seconds`` and ``cpu_seconds`` of the segment
            that ends there, ``status``, the costs known beforehand, ``measured_memory_bytes``,
            and every metric as ``metric:NAME``.
        facts: ``name``, ``task``, ``metric``, ``max_steps``, ``rungs``, ``shape``, ``space``,
            ``scale``, ``training``, ``data``, ``versions``, ``hardware``.
    """

    rows: pd.DataFrame
    facts: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the table."""
        return str(self.facts["name"])

    @property
    def max_steps(self) -> int:
        """Optimiser steps of a trial trained to the end."""
        return int(self.facts["max_steps"])

    @property
    def rungs(self) -> tuple[int, ...]:
        """Steps at which trials were measured."""
        return tuple(self.facts["rungs"])

    @cached_property
    def shape(self) -> ModelShape:
        """Shape of the model."""
        return ModelShape.from_json(self.facts["shape"])

    @cached_property
    def space(self) -> SearchSpace:
        """The space that was recorded."""
        return load_space(self.facts["space"], self.shape)

    @cached_property
    def scale(self) -> ObjectiveScale:
        """How the recording's objectives compare."""
        return ObjectiveScale.from_json(self.facts["scale"])

    @cached_property
    def configurations(self) -> dict[str, Configuration]:
        """The recorded configurations by key, in the order they were recorded."""
        first = self.rows.drop_duplicates("key")
        return {
            str(key): Configuration.from_json(json.loads(text))
            for key, text in zip(first["key"], first["configuration"], strict=True)
        }

    def finals(self) -> pd.DataFrame:
        """Return the rows of trials measured at the last step, one a trial."""
        rows = self.rows
        found: pd.DataFrame = rows[(rows["step"] == self.max_steps) & np.isfinite(rows["score"])]
        return found

    def noise(self) -> Noise:
        """Return how final scores of random configurations spread."""
        finals = self.finals()
        groups = finals[finals["origin"] == "random"].groupby("key")["score"]
        several = groups.agg(["mean", "var", "count"])
        several = several[several["count"] > 1]
        if len(several) < 2:
            return Noise(num_configurations=len(several), between=0.0, within=0.0)
        degrees = several["count"] - 1
        within = float((several["var"] * degrees).sum() / degrees.sum())
        spread = float(several["mean"].var()) - within * float((1 / several["count"]).mean())
        return Noise(num_configurations=len(several), between=max(0.0, spread), within=within)

    def write(self, path: Path) -> None:
        """Write the table, in place of the file that may be there."""
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.Table.from_pandas(self.rows, preserve_index=False)
        facts = json.dumps(dict(self.facts), ensure_ascii=False, sort_keys=True).encode()
        table = table.replace_schema_metadata({FACTS_KEY: facts})
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".tmp")
        parquet.write_table(table, draft, compression="zstd")
        draft.replace(path)


def read_table(path: Path) -> Table:
    """Read what :meth:`Table.write` wrote.

    Raises:
        AutopeftError: there is no table.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        facts = json.loads((table.schema.metadata or {})[FACTS_KEY])
    except FileNotFoundError as error:
        raise AutopeftError(
            f"there is no table {str(path)!r}",
            hint="record one with `autopeft bench table JOB.yaml`",
        ) from error
    except (KeyError, ValueError, OSError, pyarrow.ArrowException) as error:
        raise AutopeftError(
            f"{str(path)!r} is not a recorded table",
            hint="expected a parquet file written by `autopeft bench table`",
        ) from error
    if facts.get("schema_version") != SCHEMA_VERSION:
        raise AutopeftError(
            f"table {str(path)!r} has schema version {facts.get('schema_version')!r}, this "
            f"AutoPEFT reads {SCHEMA_VERSION}",
            hint="record it again, or read it with the AutoPEFT version that wrote it",
        )
    return Table(rows=table.to_pandas(), facts=facts)


def table_of(log: JobLog, *, hardware: str) -> Table:
    """Return the table that a recording holds so far.

    Trials under way are left out. A trial that diverged, or did not fit, has a row with a score
    of NaN at the rung it did not reach.

    Args:
        log: The recording.
        hardware: What it was recorded on.

    Raises:
        AutopeftError: nothing was recorded.
    """
    import pandas as pd

    if log.spec is None or log.prepared is None or log.scale is None or not log.states:
        raise AutopeftError(
            "nothing is recorded yet", hint="let `autopeft bench table` run for a while"
        )
    spec, prepared = log.spec, log.prepared
    max_steps = int(
        spec["training"]["steps"] or max((state.step for state in log.trials), default=0)
    )
    rungs = rungs_of(max_steps)
    rows = [
        row
        for state in log.trials
        if state.status is TrialStatus.COMPLETED or state.status.is_final
        for row in _rows(state, rungs)
    ]
    facts = {
        "schema_version": SCHEMA_VERSION,
        "name": log.name,
        "model": prepared["shape"]["name"],
        "task": prepared["task"],
        "metric": prepared["metric"],
        "greater_is_better": prepared["greater_is_better"],
        "max_steps": max_steps,
        "rungs": list(rungs),
        "shape": prepared["shape"],
        "space": spec["space"],
        "scale": prepared["scale"],
        "training": spec["training"],
        "data": {
            "fingerprint": prepared["fingerprint"],
            "num_rows": prepared["num_rows"],
            "memory_tokens": prepared["memory_tokens"],
        },
        "seed": spec["seed"],
        "versions": dict(log.versions),
        "hardware": hardware,
    }
    return Table(rows=pd.DataFrame(rows), facts=facts)


def _rows(state: Any, rungs: tuple[int, ...]) -> list[dict[str, Any]]:
    trial = state.trial
    known = {
        "trial": trial.number,
        "key": trial.configuration.key,
        "configuration": json.dumps(trial.configuration.to_json(), sort_keys=True),
        "origin": trial.origin,
        "seed": trial.seed,
        "status": state.status.value,
        "num_trainable_parameters": trial.costs.num_trainable_parameters,
        "num_adapter_parameters": trial.costs.num_adapter_parameters,
        "train_memory_bytes": trial.costs.train_memory_bytes,
    }
    measured = next((m.memory_bytes for m in state.curve if m.memory_bytes is not None), None)
    rows = [
        {
            **known,
            "step": m.step,
            "score": m.score,
            "seconds": m.seconds,
            "cpu_seconds": np.nan if m.cpu_seconds is None else m.cpu_seconds,
            "measured_memory_bytes": np.nan if measured is None else float(measured),
            **{f"metric:{name}": value for name, value in m.metrics.items()},
        }
        for m in state.curve
    ]
    if state.status is not TrialStatus.COMPLETED:
        missed = next((rung for rung in rungs if rung > state.step), rungs[-1])
        rows.append({**known, "step": missed, "score": np.nan, "seconds": np.nan})
    return rows
