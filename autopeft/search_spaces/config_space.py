"""A search space as a ConfigSpace, for optimisers that speak it, and back.

The hyperparameters are conditional: a method's settings are active while the method is
chosen, the extent of a placement while that kind of placement is. Several ConfigSpace
configurations may stand for one of ours ("the last two" and "10 to 11" of twelve layers);
:meth:`ConfigSpaceView.configuration` makes them canonical.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.domains import Domain, SubsetDomain, ValueDomain
from autopeft.search_spaces.part import LAYERS
from autopeft.search_spaces.placement import LayerDomain
from autopeft.search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from ConfigSpace import ConfigurationSpace

METHOD = "method"
LEARNING_RATE = "learning_rate"


class ConfigSpaceView:
    """One space in ConfigSpace's words.

    Attributes:
        space: The space.
        config_space: Its conditional hyperparameters. ``learning_rate`` is the position in
            [0, 1] between the ends of what the chosen methods allow, on a log scale.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._is_one = space.combine == "one"
        self.config_space = self._declare()

    def _declare(self) -> ConfigurationSpace:
        from ConfigSpace import ConfigurationSpace, UniformFloatHyperparameter

        declared = ConfigurationSpace(name=self.space.name)
        declared.add(UniformFloatHyperparameter(LEARNING_RATE, 0.0, 1.0, default_value=0.5))
        several = len(self.space.parts) > 1
        if several and self._is_one:
            declared.add(_categorical(METHOD, self.space.methods))
        elif several:
            for name in self.space.methods:
                declared.add(_categorical(f"use:{name}", (False, True), default=True))
        for part in self.space.parts.values():
            for domain in part.all_domains.values():
                self._add(declared, domain, part.name)
        return declared

    def _add(self, declared: ConfigurationSpace, domain: Domain, method: str) -> None:
        """Add a domain's hyperparameters under the condition that its method is there."""
        from ConfigSpace import EqualsCondition

        parent: Any = None
        value: Any = None
        if len(self.space.parts) > 1:
            parent, value = (
                (declared[METHOD], method) if self._is_one else (declared[f"use:{method}"], True)
            )
        for hyperparameter, kind in _hyperparameters(domain, method):
            declared.add(hyperparameter)
            if kind is not None:
                placement = declared[f"{method}:placement"]
                declared.add(EqualsCondition(hyperparameter, placement, kind))
            elif parent is not None:
                declared.add(EqualsCondition(hyperparameter, parent, value))

    def configuration(self, values: Mapping[str, Any]) -> Configuration:
        """Return the configuration that active hyperparameters stand for, in canonical form.

        Methods that cannot stand together become the nearest set that can; where there is
        none at all, the first method stands in.
        """
        plain = {name: _plain(value) for name, value in values.items()}
        methods = self.space.methods
        if len(methods) > 1 and self._is_one:
            methods = (plain[METHOD],)
        elif len(methods) > 1:
            methods = tuple(name for name in methods if plain[f"use:{name}"])
            sets = self.space.method_sets
            methods = sets.nearest(methods) if methods else sets.default
        modules = []
        for method in methods:
            part = self.space.parts[method]
            is_active = len(self.space.parts) == 1 or self._is_one or plain[f"use:{method}"]
            chosen = {
                name: _read(domain, method, plain) if is_active else domain.default
                for name, domain in part.all_domains.items()
            }
            modules.append(part.module(chosen))
        rate = self.space.learning_rates(methods).at(plain[LEARNING_RATE])
        return Configuration(modules=tuple(modules), learning_rate=rate)

    def values(self, configuration: Configuration) -> dict[str, Any]:
        """Return the active hyperparameters of one ConfigSpace configuration that stands for it."""
        rates = self.space.learning_rates(configuration.methods)
        found: dict[str, Any] = {LEARNING_RATE: rates.position(configuration.learning_rate)}
        if len(self.space.parts) > 1 and self._is_one:
            found[METHOD] = configuration.methods[0]
        elif len(self.space.parts) > 1:
            for name in self.space.methods:
                found[f"use:{name}"] = name in configuration.methods
        for module in configuration.modules:
            part = self.space.parts[module.method]
            chosen = part.values(module)
            for name, domain in part.all_domains.items():
                found.update(_write(domain, module.method, chosen[name]))
        return found


def _hyperparameters(domain: Domain, method: str) -> list[tuple[Any, str | None]]:
    """Return a domain's hyperparameters, each with the kind of placement it depends on."""
    from ConfigSpace import OrdinalHyperparameter, UniformIntegerHyperparameter

    if domain.is_constant:
        return []
    if isinstance(domain, LayerDomain):
        first = domain.kinds[0]
        found: list[tuple[Any, str | None]] = [
            (_categorical(f"{method}:placement", domain.kinds, default=first), None)
        ]
        top = domain.num_layers
        if "last" in domain.kinds:
            found.append((UniformIntegerHyperparameter(f"{method}:last", 1, top), "last"))
        if "range" in domain.kinds:
            for end in ("from", "to"):
                name = f"{method}:{end}"
                found.append((UniformIntegerHyperparameter(name, 0, top - 1), "range"))
        if "free" in domain.kinds:
            found += [(_flag(f"{method}:{LAYERS}:{layer}"), "free") for layer in domain.values]
        return found
    name = f"{method}:{domain.name}"
    if isinstance(domain, ValueDomain):
        if domain.is_ordered:
            values = list(domain.values)
            return [(OrdinalHyperparameter(name, values, default_value=domain.default), None)]
        return [(_categorical(name, domain.values, default=domain.default), None)]
    assert isinstance(domain, SubsetDomain)
    if domain.allowed is None:
        return [(_flag(f"{name}:{value}"), None) for value in domain.values]
    return [(_categorical(name, ["+".join(subset) for subset in domain.allowed]), None)]


def _read(domain: Domain, method: str, plain: Mapping[str, Any]) -> Any:
    if domain.is_constant:
        return domain.default
    name = f"{method}:{domain.name}"
    if isinstance(domain, LayerDomain):
        kind = plain[f"{method}:placement"]
        if kind == "all":
            return domain.values
        if kind == "last":
            return domain.values[-plain[f"{method}:last"] :]
        if kind == "range":
            first, last = sorted((plain[f"{method}:from"], plain[f"{method}:to"]))
            return domain.values[first : last + 1]
        return domain.nearest([v for v in domain.values if plain[f"{name}:{v}"]])
    if isinstance(domain, ValueDomain):
        return domain.nearest(plain[name])
    assert isinstance(domain, SubsetDomain)
    if domain.allowed is None:
        return domain.nearest([v for v in domain.values if plain[f"{name}:{v}"]])
    return tuple(plain[name].split("+"))


def _write(domain: Domain, method: str, value: Any) -> dict[str, Any]:
    if domain.is_constant:
        return {}
    name = f"{method}:{domain.name}"
    if isinstance(domain, LayerDomain):
        kind = domain.kind_of(value)
        found: dict[str, Any] = {f"{method}:placement": kind}
        if kind == "last":
            found[f"{method}:last"] = len(value)
        elif kind == "range":
            found |= {f"{method}:from": value[0], f"{method}:to": value[-1]}
        elif kind == "free":
            found |= {f"{name}:{layer}": layer in value for layer in domain.values}
        return found
    if isinstance(domain, ValueDomain):
        return {name: value}
    assert isinstance(domain, SubsetDomain)
    if domain.allowed is None:
        return {f"{name}:{item}": item in value for item in domain.values}
    return {name: "+".join(value)}


def _categorical(name: str, choices: Any, default: Any = None) -> Any:
    from ConfigSpace import CategoricalHyperparameter

    listed = list(choices)
    return CategoricalHyperparameter(
        name, listed, default_value=listed[0] if default is None else default
    )


def _flag(name: str) -> Any:
    return _categorical(name, (False, True), default=True)


def _plain(value: Any) -> Any:
    """Return the Python value behind a NumPy scalar."""
    return value.item() if hasattr(value, "item") else value
