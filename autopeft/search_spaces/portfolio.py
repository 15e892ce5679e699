"""Configurations known to work, to start a search with."""

from __future__ import annotations

from collections.abc import Mapping

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Configuration, Module, Setting
from autopeft.search_spaces.part import Part
from autopeft.search_spaces.targets import SITE_NAMES, all_linear

#: Defaults that a search starts with at most. A space with no more sets of methods gets one
#: for each of them; a larger one gets one for each family of methods, as far as they go.
MAX_DEFAULTS = 12


def origin_of(shape: ModelShape, configuration: Configuration) -> str:
    """Return the origin a member of the portfolio carries.

    Plain LoRA on all linear layers, the baseline, is ``portfolio:lora-sweep`` whatever its
    rank and learning rate.
    """
    if configuration.methods != ("lora",):
        return "portfolio"
    module = configuration.modules[0]
    is_everywhere = len(module.layers) == shape.num_layers
    is_plain = not module["dora"] and not module["rslora"]
    if is_everywhere and is_plain and module["sites"] == all_linear(shape):
        return "portfolio:lora-sweep"
    return "portfolio"


def known_good(shape: ModelShape, parts: Mapping[str, Part]) -> list[Configuration]:
    """Return configurations for the methods among ``parts``.

    They are written for an unrestricted space; the space at hand takes the nearest it holds.
    Learning rates are multiples of each method's default.
    """
    everywhere = tuple(range(shape.num_layers))
    upper_half = everywhere[shape.num_layers // 2 :]
    upper_quarter = everywhere[-max(1, shape.num_layers // 4) :]
    found: list[Configuration] = []

    def add(factor: float, module: Module) -> None:
        rates = parts[module.method].learning_rates
        rate = min(max(rates.default * factor, rates.low), rates.high)
        found.append(Configuration(modules=(module,), learning_rate=rate))

    def lora(rank: int, layers: tuple[int, ...], sites: tuple[str, ...]) -> Module:
        plain: dict[str, Setting] = {"alpha_ratio": 2.0, "dora": False, "rslora": False}
        return Module.of("lora", layers, rank=rank, sites=sites, **plain)

    if "lora" in parts:
        add(1.0, lora(8, everywhere, all_linear(shape)))
        add(0.3, lora(8, everywhere, all_linear(shape)))
        add(0.5, lora(32, everywhere, all_linear(shape)))
        add(1.0, lora(4, upper_half, _queries_and_values(shape)))
    if "ia3" in parts:
        add(1.0, Module.of("ia3", everywhere, sites=SITE_NAMES))
    if "beft" in parts:
        add(1.0, Module.of("beft", everywhere, sites=SITE_NAMES))
        add(1.0, Module.of("beft", upper_quarter, sites=SITE_NAMES))
    if "prefix" in parts:
        add(1.0, Module.of("prefix", everywhere, prefix_length=16))
    return found


def _queries_and_values(shape: ModelShape) -> tuple[str, ...]:
    """Return the sites of Hu et al. 2022, or what a model has in their place."""
    for names in (("q", "v"), ("qkv",), ("mixer_in", "mixer_out")):
        if set(names) <= set(shape.site_names):
            return names
    return all_linear(shape)
