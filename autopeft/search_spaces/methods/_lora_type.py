"""What PEFT's type ``LORA`` can be put on: linear layers, and stacked experts as parameters.

PEFT 0.21 reads ``target_modules`` of some mixtures of experts as the names that their layers had
before transformers stacked them (``_convert_peft_config_moe`` of
``peft/utils/transformers_weight_conversion.py``). A regular expression becomes the last parts of
the names it matches, so that the choice of layers is lost; and what is called like an expert of
old, such as ``gate_proj`` of a shared expert, becomes the stacked experts at twice the rank.
On such models layers are therefore listed by their whole names, and those with one of the old
names are given as parameters (``target_parameters``), which PEFT takes as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.methods._per_site import PerSite, number_of
from autopeft.search_spaces.published import matched
from autopeft.search_spaces.targets import PARAMETER_NAMES, pattern_of, placed_on

#: Last parts of names that PEFT reads as experts or as the router, by the model types for which
#: it does so.
_OF_MIXTRAL = frozenset({"gate", "w1", "w2", "w3"})
_OF_QWEN_MOE = frozenset({"gate", "gate_proj", "up_proj", "down_proj"})
RENAMED: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("minimax", "minimax_m2", "mixtral"), _OF_MIXTRAL),
    **dict.fromkeys(
        (
            *("Dots3NoteTextModel", "UnlimitedOcrTextModel", "afmoe", "beam", "cohere2_moe"),
            *("deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe"),
            *("exaone_moe", "flex_olmo", "glm4_moe", "glm4_moe_lite", "glm4v_moe"),
            *("glm_moe_dsa", "hunyuan_v1_moe", "longcat_flash", "mellum", "olmoe", "qwen3_moe"),
            *("qwen3_next", "qwen3_omni_moe", "qwen3_omni_moe_text", "qwen3_omni_moe_thinker"),
            "solar_open",
        ),
        _OF_QWEN_MOE,
    ),
}


class LoraType(PerSite):
    """A method that PEFT keeps in layers of its type ``LORA``."""

    peft_type = "LORA"
    exclusive = frozenset({"LoRA layers"})  # PEFT keeps them in one kind of layer
    is_mergeable = True
    #: Whether PEFT's implementation takes parameters, stacked or not, beside whole layers.
    supports_parameters: ClassVar[bool] = False

    def fits(self, shape: ModelShape, site: SiteShape) -> bool:
        """Tell whether the method can be put on a site, as a layer or as a parameter."""
        if not is_parameter(shape, site):
            return super().fits(shape, site)
        # PEFT adds the update to the weight, which takes a weight that is stored in full.
        is_whole = shape.quantization is None
        is_matrix = site.kind == "linear" or len(site.kernel_size) == 1
        return self.supports_parameters and is_whole and is_matrix

    def offered(self, shape: ModelShape) -> tuple[SiteShape, ...]:
        """Return the linear layers that can be chosen, and the stacked experts."""
        names = {site.site for site in shape.parameters if self.fits(shape, site)}
        experts = (
            site for name in PARAMETER_NAMES if name in names for site in shape.sites_called(name)
        )
        return (*super().offered(shape), *experts)

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Sum over sites and layers; a stack of experts has as many updates."""
        return self._summed(shape, module, self.count)

    def num_saved_parameters(self, shape: ModelShape, module: Module) -> int:
        """Sum what each layer or expert puts into the adapter file."""
        return self._summed(shape, module, self.saved)

    def _summed(
        self,
        shape: ModelShape,
        module: Module,
        count: Callable[[SiteShape, Mapping[str, Any]], int],
    ) -> int:
        settings = module.as_dict()
        return sum(
            count(site, settings) * number_of(site, layers) * math.prod(site.kernel_size)
            for site, layers in placed_on(shape, module)
        )

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``LoraConfig``, with whole names where it takes them alone."""
        placed = list(placed_on(shape, module))
        layers = [each for each in placed if not is_parameter(shape, each[0])]
        parameters = [each for each in placed if is_parameter(shape, each[0])]
        found = dict(super().peft_config(shape, module))
        if shape.model_type in RENAMED:
            found["target_modules"] = _names(layers)
        elif parameters:
            found["target_modules"] = pattern_of(layers) if layers else []
        if parameters:
            found["target_parameters"] = [
                name if site.kind == "parameter" else f"{name}.weight"
                for site, own in parameters
                for name in _names([(site, own)])
            ]
        return found

    def placed_by(
        self, shape: ModelShape, config: Mapping[str, Any], targets: Any = None
    ) -> list[tuple[SiteShape, tuple[int, ...]]]:
        """Return the sites and layers that a published config names, parameters among them.

        Raises:
            ValueError: PEFT reads its names otherwise than they stand there.
        """
        wanted = config.get("target_modules") if targets is None else targets
        _check_names(shape, wanted)
        found = super().placed_by(shape, config, wanted or ())
        parameters = config.get("target_parameters") or ()
        return found + [
            place
            for site in self.offered(shape)
            if is_parameter(shape, site)
            for place in matched(
                shape,
                [site],
                {},  # PEFT leaves out no layer of these
                [
                    name if site.kind == "parameter" else name.removesuffix(".weight")
                    for name in parameters
                ],
            )
        ]

    def layers_only(
        self, shape: ModelShape, values: Mapping[str, tuple[Any, ...]]
    ) -> Mapping[str, tuple[Any, ...]]:
        """Return the values without the sites that PEFT takes as parameters."""
        layers = {s.site for s in shape.sites if not is_parameter(shape, s)}
        return {**values, "sites": tuple(name for name in values["sites"] if name in layers)}

    def remarks(self, shape: ModelShape) -> tuple[str, ...]:
        """Say what of a mixture of experts is left out."""
        found = super().remarks(shape)
        left = sorted(
            {
                site.site
                for site in shape.sites
                if is_parameter(shape, site) and not self.fits(shape, site)
            }
        )
        if left:
            found += (f"{', '.join(left)} left out: PEFT reads their names as the stacked experts",)
        return found


def is_parameter(shape: ModelShape, site: SiteShape) -> bool:
    """Tell whether PEFT takes a site as a parameter alone."""
    if site.kind == "parameter":
        return True
    return site.kind == "linear" and _last(site.path) in RENAMED.get(shape.model_type, ())


def _names(placed: Iterable[tuple[SiteShape, tuple[int, ...]]]) -> list[str]:
    """Return the whole name of every layer."""
    return [
        name
        for site, layers in placed
        for name in ([site.path_in(layer) for layer in layers] if layers else [site.path])
    ]


def _check_names(shape: ModelShape, wanted: Any) -> None:
    """Make sure that PEFT takes a config's ``target_modules`` by the letter."""
    renamed = RENAMED.get(shape.model_type)
    if renamed is None or not wanted:
        return
    if isinstance(wanted, str):
        raise ValueError(
            f"PEFT drops the layers from a pattern on {shape.model_type}: "
            f"list the names of layers instead of {wanted!r}"
        )
    if read := sorted(name for name in wanted if _last(name) in renamed):
        raise ValueError(f"PEFT reads {', '.join(read)} as the stacked experts")


def _last(path: str) -> str:
    return path.rpartition(".")[2]
