"""A job's training settings as its space sees them: defaults of what is searched, and what fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from autopeft.errors import InvalidJobError
from autopeft.search_spaces.space_files import read_spec
from autopeft.search_spaces.training_domain import SEARCHABLE, JobTraining, Scalar
from autopeft.service.job_problems import problems_of
from autopeft.workers.settings import TrainingSettings

if TYPE_CHECKING:
    from autopeft.search_spaces.space import SearchSpace
    from autopeft.service.job_spec import JobSpec

_PRECISION = "precision"


def job_training(settings: TrainingSettings) -> JobTraining:
    """Return what a space has to know of a job's training settings."""

    def why_not(values: Mapping[str, Scalar]) -> str | None:
        if values.get(_PRECISION) == "auto":
            return "stands for one of the others, by how the base model is stored; name those"
        batch_size = values.get("batch_size", settings.batch_size)
        if settings.epochs is not None and batch_size != settings.batch_size:
            return (
                f"training.epochs comes to other steps than with {settings.batch_size}; give "
                "training.steps in its place"
            )
        try:
            settings.updated(tuple(values.items()))
        except ValidationError as error:
            return problems_of(error, TrainingSettings)[0].text
        return None

    values = {name: getattr(settings, name) for name in SEARCHABLE}
    if settings.precision == "auto":
        values[_PRECISION] = "float32"  # where it is not, precision cannot be searched
    return JobTraining(values=values, why_not=why_not)


def searched_training(spec: JobSpec) -> dict[str, list[Any]]:
    """Return the values of the training settings that the space of a sound job searches."""
    data = read_spec(spec.space, base=spec.base).data
    given = data.get("training") or {}
    return {
        name: values if isinstance(values, list) else [values]
        for name, values in sorted(given.items())
    }


def check_precision(spec: JobSpec, config: Any, space: SearchSpace) -> None:
    """Refuse to search the precision where it makes no difference.

    Args:
        spec: The job.
        config: transformers config of its model.
        space: Where it searches.

    Raises:
        InvalidJobError: all is computed in bfloat16 whatever the job says.
    """
    from autopeft.workers.memory.step import step_dtypes

    if _PRECISION not in space.training.varied:
        return
    by_itself = step_dtypes(config, spec.model, "auto")
    if by_itself == step_dtypes(config, spec.model, "bfloat16"):
        raise InvalidJobError(
            "space.training.precision: the base model is stored in half precision or quantised, "
            "so that all is computed in bfloat16",
            hint="leave precision out of the space, or set model.dtype: float32",
        )


def check_optimizers(space: SearchSpace) -> None:
    """Make sure that the packages of the optimisers that are searched are there.

    Raises:
        InvalidJobError: one is missing.
    """
    from autopeft.workers.optimizers import check_optimizer

    searched = space.training.domains.get("optimizer")
    for name in () if searched is None else searched.values:
        check_optimizer(name)
