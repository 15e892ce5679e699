"""What methods share that add something of their own to each chosen linear layer."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import Dimension, Method
from autopeft.search_spaces.published import check_fields, matched, placement
from autopeft.search_spaces.targets import (
    SITE_NAMES,
    all_linear,
    placed_on,
    site_dimension,
    sites_of,
    target_pattern,
)

#: State-space models whose fused kernel reads the weight of ``mixer_out`` itself.
MAMBA_TYPES = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})


class PerSite(Method):
    """A method of PEFT that is put on linear layers, each on its own.

    A subclass declares its settings, counts what one layer gets and names the arguments of the
    config class; sites, placement, patterns and sums are the same for all.
    """

    peft_type: ClassVar[str]
    #: Whether PEFT's implementation takes the transposed linear layers of GPT-2.
    supports_conv1d: ClassVar[bool] = False
    #: Whether PEFT's implementation takes linear layers quantized by bitsandbytes.
    supports_quantized: ClassVar[bool] = False
    #: Sites chosen by default; None stands for all linear layers.
    default_sites: ClassVar[tuple[str, ...] | None] = None
    #: Setting of this method by the field of PEFT's config that holds the same value.
    same_fields: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return the dimensions beside ``sites``; values must fit every one of ``sites``."""

    @abstractmethod
    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Return the trainable parameters that one layer gets."""

    @abstractmethod
    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of PEFT's config class beside type and targets."""

    def saved(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Return the numbers that one layer puts into the adapter file."""
        return self.count(site, settings)

    def shared(self, shape: ModelShape, module: Module) -> int:
        """Return the trainable parameters that stand beside the layers."""
        return 0

    def shared_saved(self, shape: ModelShape, module: Module) -> int:
        """Return the numbers in the adapter file that stand beside the layers."""
        return self.shared(shape, module)

    def fits(self, shape: ModelShape, site: SiteShape) -> bool:
        """Tell whether the method can be put on a site."""
        if site.kind == "conv1d":
            return self.supports_conv1d
        return site.kind == "linear" and not (
            site.site == "mixer_out" and shape.model_type in MAMBA_TYPES
        )

    def offered(self, shape: ModelShape) -> tuple[SiteShape, ...]:
        """Return the site shapes that can be chosen: all of a name fit, or none is offered."""
        names = [
            name
            for name in SITE_NAMES
            if (found := shape.sites_called(name)) and all(self.fits(shape, s) for s in found)
        ]
        return tuple(site for name in names for site in shape.sites_called(name))

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return the method's settings and its sites."""
        offered = self.offered(shape)
        return (
            *self.settings(shape, offered),
            site_dimension(
                shape,
                {site.site for site in offered},
                default=all_linear(shape) if self.default_sites is None else self.default_sites,
                help="Linear layers that are adapted.",
            ),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Sum over sites and layers, and add what they share."""
        settings = module.as_dict()
        own = sum(
            self.count(site, settings) * number_of(site, layers)
            for site, layers in placed_on(shape, module)
        )
        return own + self.shared(shape, module)

    def num_saved_parameters(self, shape: ModelShape, module: Module) -> int:
        """Sum what each layer and all together put into the adapter file."""
        settings = module.as_dict()
        own = sum(
            self.saved(site, settings) * number_of(site, layers)
            for site, layers in placed_on(shape, module)
        )
        return own + self.shared_saved(shape, module)

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of PEFT's config class."""
        arguments = {"peft_type": self.peft_type, **self.arguments(shape, module)}
        if any(site.kind == "conv1d" for site, _ in placed_on(shape, module)):
            arguments["fan_in_fan_out"] = True
        pattern = target_pattern(shape, module.layers, sites_of(module))
        return {**arguments, "target_modules": pattern}

    def candidates(self, shape: ModelShape) -> tuple[SiteShape, ...]:
        """Return the sites that a published config of this method may name."""
        return shape.sites

    def settings_from_peft(
        self, shape: ModelShape, config: Mapping[str, Any]
    ) -> Mapping[str, Setting]:
        """Return the settings that a config of PEFT means."""
        return {name: config[field] for name, field in self.same_fields.items()}

    def normalised(self, shape: ModelShape, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a published config as this method would write it; by default as it is.

        Overridden where a config can say the same in two ways.
        """
        return config

    def placed_by(
        self, shape: ModelShape, config: Mapping[str, Any], targets: Any = None
    ) -> list[tuple[SiteShape, tuple[int, ...]]]:
        """Return the sites and layers that a published config names.

        Args:
            shape: The model.
            config: The published config.
            targets: Names or regular expression; the config's ``target_modules`` where None.
        """
        return matched(shape, self.candidates(shape), config, targets)

    @classmethod
    def from_peft_config(cls, shape: ModelShape, config: Mapping[str, Any]) -> Module:
        """Return the module that a published config means on a model."""
        if config.get("peft_type") != cls.peft_type:
            raise ValueError(f"its type is {config.get('peft_type')}, not {cls.peft_type}")
        method = cls()
        names, layers = placement(method.placed_by(shape, config))
        settings = dict(method.settings_from_peft(shape, config))
        module = Module.of(cls.name, layers, **settings, sites=names)
        check_fields(method.normalised(shape, config), method.peft_config(shape, module))
        return module

    def unavailable(self, shape: ModelShape) -> str | None:
        """Refuse models whose linear layers PEFT's implementation cannot take."""
        if shape.quantization and not self.supports_quantized:
            return f"PEFT's {self.title} cannot adapt weights in {shape.quantization}"
        if not self.offered(shape) and any(site.kind == "conv1d" for site in shape.sites):
            return (
                f"the linear layers of {shape.model_type} are stored transposed (Conv1D), which "
                f"PEFT's {self.title} does not take"
            )
        return super().unavailable(shape)


def number_of(site: SiteShape, layers: tuple[int, ...]) -> int:
    """Return how many modules a placed site is: one a layer, or the one outside the layers."""
    return len(layers) if site.is_in_layers else 1


def narrowest(sites: Iterable[SiteShape]) -> int:
    """Return the smallest width of any input or output; 0 without sites."""
    return min((min(site.in_features, site.out_features) for site in sites), default=0)


def common_divisor(sites: Iterable[SiteShape], *, inputs: bool = True, outputs: bool = True) -> int:
    """Return the greatest number that divides every input and output width; 0 without sites."""
    widths = [
        width
        for site in sites
        for width, counts in ((site.in_features, inputs), (site.out_features, outputs))
        if counts
    ]
    return math.gcd(*widths)


def up_to(values: Iterable[int], limit: int) -> tuple[int, ...]:
    """Return the values that are no greater than a limit."""
    return tuple(value for value in values if value <= limit)


def dividing(values: Iterable[int], number: int) -> tuple[int, ...]:
    """Return the values that divide a number."""
    return tuple(value for value in values if number and number % value == 0)


def ordinal(name: str, values: tuple[Any, ...], default: Any, help: str) -> Dimension:
    """Declare an ordered dimension; the default is the nearest value there is."""
    return Dimension(
        name=name, kind="ordinal", values=values, default=nearest(values, default), help=help
    )


def categorical(name: str, values: tuple[Any, ...], default: Any, help: str) -> Dimension:
    """Declare an unordered dimension."""
    return Dimension(name=name, kind="categorical", values=values, default=default, help=help)


def nearest(values: tuple[Any, ...], wanted: Any) -> Any:
    """Return the value closest to a wanted one; the wanted one where there are none."""
    return min(values, key=lambda value: abs(value - wanted), default=wanted)


def rank_dimension(
    sites: Iterable[SiteShape], ranks: Iterable[int], default: int, help: str
) -> Dimension:
    """Declare ``rank``; ranks above the narrowest width are left out."""
    return ordinal("rank", up_to(ranks, narrowest(sites)), default, help)


def plain_number(value: float) -> int | float:
    """Write a whole number as an integer, as PEFT's configs do."""
    return int(value) if float(value).is_integer() else value
