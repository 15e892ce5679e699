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
from autopeft.search_spaces.training_domain import PREFIX

if TYPE_CHECKING:
    from ConfigSpace import ConfigurationSpace

METHOD = "method"
LEARNING_RATE = "learning_rate"
#: Stands for the methods where all of them have the same layers.
SHARED = "shared"


class ConfigSpaceView:
    """One space in ConfigSpace's words.

    Attributes:
        space: The space.
        config_space: Its conditional hyperparameters. ``learning_rate`` is the position in
            [0, 1] between the ends of what the chosen methods allow, on a log scale.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._composer = space.composer
        sets = space.method_sets
        listed: list[tuple[str, ...]] | None = None
        if sets.max_methods == 1:
            listed = [(name,) for name in sets.values]
        if space.combine == "all":
            listed = sets.all_sets(len(sets.values))
        #: The sets of methods by name where they are listed; None where each is on or off.
        self._sets = None if listed is None else {"+".join(names): names for names in listed}
        self.config_space = self._declare()

    def _declare(self) -> ConfigurationSpace:
        from ConfigSpace import ConfigurationSpace, UniformFloatHyperparameter

        declared = ConfigurationSpace(name=self.space.name)
        declared.add(UniformFloatHyperparameter(LEARNING_RATE, 0.0, 1.0, default_value=0.5))
        if self._sets is None:
            for name in self.space.methods:
                declared.add(_categorical(f"use:{name}", (False, True), default=True))
        elif len(self._sets) > 1:
            declared.add(_categorical(METHOD, tuple(self._sets)))
        for name in sorted(self._composer.sharing)[:1]:
            self._add(declared, self.space.parts[name].layers, SHARED)
        for part in self.space.parts.values():
            for key, domain in part.all_domains.items():
                if key != LAYERS or part.name not in self._composer.sharing:
                    self._add(declared, domain, part.name)
        for name in self.space.training.varied:
            declared.add(_one_of(PREFIX + name, self.space.training.domains[name]))
        return declared

    def _add(self, declared: ConfigurationSpace, domain: Domain, method: str) -> None:
        """Add a domain's hyperparameters under the condition that its method is there."""
        from ConfigSpace import EqualsCondition

        parent: Any = None
        value: Any = None
        if self._sets is None and method != SHARED:
            parent, value = declared[f"use:{method}"], True
        elif self._sets is not None and len(self._sets) > 1 and method != SHARED:
            parent = declared[METHOD]
            value = next(label for label, names in self._sets.items() if method in names)
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
        sets = self.space.method_sets
        if self._sets is None:
            methods = tuple(name for name in self.space.methods if plain[f"use:{name}"])
            methods = sets.nearest(methods) if methods else sets.default
        else:
            methods = self._sets[plain[METHOD]] if len(self._sets) > 1 else sets.default
        chosen = {}
        for method in methods:
            is_active = self._sets is not None or plain[f"use:{method}"]
            chosen[method] = {
                name: _read(domain, self._owner(method, name), plain)
                if is_active or self._owner(method, name) == SHARED
                else domain.default
                for name, domain in self.space.parts[method].all_domains.items()
            }
        training = {name: plain[PREFIX + name] for name in self.space.training.varied}
        return self._composer.configuration(chosen, plain[LEARNING_RATE], training)

    def _owner(self, method: str, dimension: str) -> str:
        """Return under whose name a dimension of a method stands."""
        is_shared = dimension == LAYERS and method in self._composer.sharing
        return SHARED if is_shared else method

    def values(self, configuration: Configuration) -> dict[str, Any]:
        """Return the active hyperparameters of one ConfigSpace configuration that stands for it."""
        found: dict[str, Any] = {LEARNING_RATE: self._composer.position(configuration)}
        chosen = self._composer.values(configuration)
        if self._sets is None:
            for name in self.space.methods:
                found[f"use:{name}"] = name in chosen
        elif len(self._sets) > 1:
            names = tuple(chosen)
            found[METHOD] = next(label for label, each in self._sets.items() if each == names)
        if self._composer.sharing and not self._composer.sharing & chosen.keys():
            shared = self.space.parts[min(self._composer.sharing)].layers
            found.update(_write(shared, SHARED, shared.default))
        for method, given in chosen.items():
            for name, domain in self.space.parts[method].all_domains.items():
                found.update(_write(domain, self._owner(method, name), given[name]))
        training = dict(configuration.training)
        return found | {PREFIX + name: training[name] for name in self.space.training.varied}


def _one_of(name: str, domain: ValueDomain) -> Any:
    """Return the hyperparameter of one value of several."""
    from ConfigSpace import OrdinalHyperparameter

    if domain.is_ordered:
        return OrdinalHyperparameter(name, list(domain.values), default_value=domain.default)
    return _categorical(name, domain.values, default=domain.default)


def _hyperparameters(domain: Domain, method: str) -> list[tuple[Any, str | None]]:
    """Return a domain's hyperparameters, each with the kind of placement it depends on."""
    from ConfigSpace import UniformIntegerHyperparameter

    if domain.is_constant:
        return []
    if isinstance(domain, LayerDomain):
        found: list[tuple[Any, str | None]] = [
            (_categorical(f"{method}:placement", domain.choices), None)
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
        return [(_one_of(name, domain), None)]
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
        if kind in domain.named:
            return domain.named[kind]
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
