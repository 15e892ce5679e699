"""The thing that is searched: one PEFT configuration, immutable and canonical.

Two configurations that train identically are equal: modules are sorted by method, layers are
explicit sorted tuples, settings of an absent module do not exist.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autopeft.errors import InvalidSpaceError

SCHEMA_VERSION = 1

Setting = int | float | str | bool | tuple[str, ...]
#: Values of training settings, ``(name, value)`` pairs sorted by name.
Training = tuple[tuple[str, int | float | str | bool], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One PEFT method with its size, sites and layers.

    Attributes:
        method: Name in the method registry, e.g. ``lora``.
        layers: Numbers of the transformer layers that carry it, ascending, not empty.
        settings: ``(name, value)`` pairs sorted by name: exactly the dimensions that matter
            for this module, e.g. ``(("alpha_ratio", 2.0), ("rank", 8), ("sites", ("q", "v")))``.
    """

    method: str
    layers: tuple[int, ...]
    settings: tuple[tuple[str, Setting], ...]

    @classmethod
    def of(cls, method: str, layers: tuple[int, ...] | list[int], **settings: Setting) -> Module:
        """Build a module from keyword settings, in canonical order."""
        ordered = tuple(sorted(settings.items(), key=lambda item: item[0]))
        return cls(method=method, layers=tuple(sorted(set(layers))), settings=ordered)

    def __getitem__(self, name: str) -> Setting:
        """Return one setting; KeyError where the module has none of that name."""
        for key, value in self.settings:
            if key == name:
                return value
        raise KeyError(name)

    def as_dict(self) -> dict[str, Setting]:
        """Return the settings as a dictionary."""
        return dict(self.settings)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary."""
        settings = {
            key: list(value) if isinstance(value, tuple) else value for key, value in self.settings
        }
        return {"method": self.method, "layers": list(self.layers), "settings": settings}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Module:
        """Read what :meth:`to_json` wrote."""
        settings = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in data["settings"].items()
        }
        return cls.of(data["method"], list(data["layers"]), **settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What one trial trains: modules and what they train with.

    Attributes:
        modules: At most one per method, sorted by method; empty trains the task head alone.
        learning_rate: Peak learning rate, kept to six significant digits.
        training: The training settings that the space searches, each with its value here; they
            take the place of the job's own. Empty where it searches none.
    """

    modules: tuple[Module, ...]
    learning_rate: float
    training: Training = ()

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.modules, key=lambda module: module.method))
        methods = [module.method for module in ordered]
        if len(set(methods)) != len(methods):
            raise InvalidSpaceError(
                f"a configuration holds each method once, got {', '.join(methods)}"
            )
        object.__setattr__(self, "modules", ordered)
        object.__setattr__(self, "learning_rate", float(f"{self.learning_rate:.6g}"))
        settings = tuple(sorted(self.training, key=lambda pair: pair[0]))
        if len(dict(settings)) != len(settings):
            names = ", ".join(name for name, _ in settings)
            raise InvalidSpaceError(f"a configuration sets each setting once, got {names}")
        object.__setattr__(self, "training", settings)

    @property
    def key(self) -> str:
        """A stable 16-digit name: equal configurations have equal keys, in any process."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, sorted."""
        return tuple(module.method for module in self.modules)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able dictionary with its schema version."""
        return {
            "schema_version": SCHEMA_VERSION,
            "learning_rate": self.learning_rate,
            "modules": [module.to_json() for module in self.modules],
            **({"training": dict(self.training)} if self.training else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Configuration:
        """Read what :meth:`to_json` wrote.

        Raises:
            InvalidSpaceError: another schema version, or not a configuration at all.
        """
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise InvalidSpaceError(
                f"configuration has schema version {version!r}, this AutoPEFT reads "
                f"{SCHEMA_VERSION}",
                hint="open it with the AutoPEFT version that wrote it",
            )
        try:
            modules = tuple(Module.from_json(module) for module in data["modules"])
            return cls(
                modules=modules,
                learning_rate=float(data["learning_rate"]),
                training=_training_from_json(data.get("training", {})),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise InvalidSpaceError(f"not a configuration: {what}") from error

    def __str__(self) -> str:
        """Describe it in one short line, for tables; what is off is left out."""
        parts = []
        for module in self.modules:
            settings = " ".join(
                f"{key}={_short(value)}" for key, value in module.settings if value is not False
            )
            parts.append(f"{module.method}[{_ranges(module.layers)}] {settings}".rstrip())
        rate = f"lr={self.learning_rate:.3g}"
        trained = (f"{name}={_short(value)}" for name, value in self.training if value is not False)
        return " ".join([" + ".join(parts) or "head only", rate, *trained])


def _training_from_json(data: Mapping[str, Any]) -> Training:
    """Read training settings; ValueError where one has no plain value."""
    for name, value in data.items():
        if not isinstance(value, int | float | str):
            raise ValueError(f"the training setting {name} is {value!r}")
    return tuple(data.items())


def _short(value: Setting) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _ranges(layers: tuple[int, ...]) -> str:
    """Write ``(0, 1, 2, 5)`` as ``0-2,5``."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
