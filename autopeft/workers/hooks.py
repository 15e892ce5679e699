"""What a method's module file asks of the training loop: learning rates of its own, work per step.

A module file (``Method.module_file``) may define two functions:

``param_groups(model, learning_rate)``
    Returns a list of ``{"params": [...], "lr_scale": float}``: parameters that train at
    another multiple of the learning rate. What is not listed trains at the rate itself.

``on_step(model, step, num_steps)``
    Called after each optimiser step and before the gradients are cleared. ``step`` counts
    from 1. It must be a deterministic function of the model's state, the gradients and the
    two numbers; what it remembers stands in parameters or buffers that are saved with the
    adapter, so that a trial trained in segments equals one trained in one go.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.method import get_method

OnStep = Callable[[Any, int, int], None]
ParamGroups = Callable[[Any, float], list[dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """The hooks of one configuration, in the order of its modules.

    Attributes:
        param_groups: See the module's description.
        on_step: See the module's description.
    """

    param_groups: tuple[ParamGroups, ...] = ()
    on_step: tuple[OnStep, ...] = ()

    def learning_rate_scales(self, model: Any, learning_rate: float) -> dict[str, float]:
        """Return the multiple of the learning rate by the name of each parameter that has one.

        Args:
            model: Injected model; only parameters that train are looked at.
            learning_rate: Peak learning rate of the trial.

        Raises:
            ValueError: a parameter is listed twice, or a multiple is no positive number.
        """
        names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
        scales: dict[str, float] = {}
        for hook in self.param_groups:
            for group in hook(model, learning_rate):
                scale = float(group["lr_scale"])
                if not (math.isfinite(scale) and scale > 0):
                    raise ValueError(f"lr_scale is {scale:g}, a positive number was expected")
                for parameter in group["params"]:
                    name = names.get(id(parameter))
                    if name is None:
                        continue  # frozen after the method was built, so it has no rate at all
                    if name in scales:
                        raise ValueError(f"{name} is listed in two groups of parameters")
                    scales[name] = scale
        return scales

    def after_step(self, model: Any, step: int, num_steps: int) -> None:
        """Call every ``on_step``."""
        for hook in self.on_step:
            hook(model, step, num_steps)


NO_HOOKS = Hooks()


def hooks_of(configuration: Configuration) -> Hooks:
    """Return the hooks of a configuration's methods; their module files are imported."""
    files = [module_of(module.method) for module in configuration.modules]
    found = [vars(file) for file in files if file is not None]
    return Hooks(
        param_groups=_named("param_groups", found),
        on_step=_named("on_step", found),
    )


def module_of(method: str) -> ModuleType | None:
    """Return the imported module file of a method; None where it has none."""
    path = get_method(method).module_file
    return None if path is None else importlib.import_module(path)


def _named(name: str, files: list[Mapping[str, Any]] | list[dict[str, Any]]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(file[name] for file in files if name in file))
