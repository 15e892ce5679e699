"""A configuration that a study asks somebody to train, as that somebody's tools take it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autopeft.errors import AutopeftError
from autopeft.records import Costs, ModelShape
from autopeft.search_spaces.configuration import Configuration

if TYPE_CHECKING:
    from peft import PeftConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One trial to be trained.

    Attributes:
        number: The trial's, by which the study is told what came of it.
        configuration: What to train.
        origin: Where it came from, e.g. ``portfolio`` or ``mobo``.
        seed: What the trial may be seeded with.
        costs: Known before training.
        shape: The model.
    """

    number: int
    configuration: Configuration
    origin: str
    seed: int
    costs: Costs
    shape: ModelShape = field(repr=False)

    @property
    def learning_rate(self) -> float:
        """Peak learning rate."""
        return self.configuration.learning_rate

    @property
    def training(self) -> dict[str, Any]:
        """Training settings that the space searches, by name; empty where it searches none."""
        return dict(self.configuration.training)

    @property
    def is_one_adapter(self) -> bool:
        """Whether one PEFT adapter holds all of it."""
        from autopeft.workers.injection import is_saved_as_parts

        return not is_saved_as_parts(self.configuration)

    @property
    def peft_config(self) -> PeftConfig:
        """The config of PEFT that ``peft.get_peft_model`` takes.

        Raises:
            AutopeftError: the configuration takes several adapters.
        """
        if not self.is_one_adapter:
            raise AutopeftError(
                f"trial {self.number} ({self.configuration}) takes several PEFT adapters",
                hint="call inject(model), or search a space of one method at a time",
            )
        (config,) = self.peft_configs.values()
        return config

    @property
    def peft_configs(self) -> dict[str, PeftConfig]:
        """The configs of PEFT by method, in the order of injection.

        They name no base model: PEFT enters the one that they are put on.
        """
        from autopeft.workers.injection import peft_configs

        found = peft_configs(self.configuration, self.shape)
        for config in found.values():
            config.base_model_name_or_path = None
        return found

    def inject(self, model: Any, *, seed: int | None = None) -> Any:
        """Return a new model that carries the configuration, whatever its methods.

        The frozen weights are shared with ``model``, which is left as it was; exactly the
        adapters and the task head require gradients.

        Args:
            model: The base model with its task head.
            seed: Of adapters and head; the trial's own where None.
        """
        from autopeft.workers.injection import inject

        own = self.seed if seed is None else seed
        with warnings.catch_warnings():
            # Where the model was loaded from need not be what it is called.
            warnings.filterwarnings("ignore", ".*`base_model_name_or_path` was renamed")
            return inject(model, self.configuration, self.shape, own)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values: what a tuner hands to a trainable.

        ``peft_config`` is what ``adapter_config.json`` would hold, None where the configuration
        takes several adapters; ``peft_configs`` holds them by method. ``PeftConfig`` objects come
        back with :func:`config_of`.
        """
        configs = {name: plain_config(config) for name, config in self.peft_configs.items()}
        return {
            "trial_number": self.number,
            "origin": self.origin,
            "seed": self.seed,
            "learning_rate": self.learning_rate,
            "modules": [module.to_json() for module in self.configuration.modules],
            "training": self.training,
            "peft_config": next(iter(configs.values())) if self.is_one_adapter else None,
            "peft_configs": configs,
        }


def plain_config(config: PeftConfig) -> dict[str, Any]:
    """Return a config of PEFT as plain JSON values."""
    written = json.dumps(config.to_dict(), default=_listed, sort_keys=True)
    found: dict[str, Any] = json.loads(written)
    return found


def config_of(values: Mapping[str, Any]) -> PeftConfig:
    """Return the config of PEFT that :func:`plain_config` wrote.

    Types that PEFT lacks are made known to it first.

    Raises:
        InvalidSpaceError: it is no config of the installed PEFT.
    """
    from autopeft.workers.foreign_adapters import peft_config_of

    return peft_config_of(values)


def _listed(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"a PEFT config holds {value!r}, which JSON cannot")
