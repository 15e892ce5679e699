"""BD-LoRA: LoRA with one block-diagonal factor, to be served on several devices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from autopeft.records import ModelShape, SiteShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange
from autopeft.search_spaces.methods._lora_type import LoraType
from autopeft.search_spaces.methods._per_site import (
    common_divisor,
    dividing,
    narrowest,
    ordinal,
    plain_number,
    up_to,
)
from autopeft.search_spaces.targets import OUTPUT_SITES, placed_on

RANKS = (4, 8, 16, 32, 64, 128)
BLOCKS = (2, 4, 8)
ALPHA_RATIOS = (0.5, 1.0, 2.0, 4.0)


@METHODS.register("bd-lora")
class BdLora(LoraType):
    """Wang et al. 2025 (section 3 of arXiv 2510.23346): A is block-diagonal where a layer is cut.

    Layers that end a block (attention output, second feed-forward layer) are cut by rows and
    have a block-diagonal A, all others are cut by columns and have a block-diagonal B. PEFT
    tells them apart by parts of their names, so those must differ.
    """

    name = "bd-lora"
    title = "BD-LoRA"
    family = "low-rank"
    paper = "arXiv 2510.23346"
    # LoRA's range: PEFT's published run uses LoRA's 1e-4.
    learning_rate = LearningRateRange(low=2e-4, default=2e-3, high=1e-2)

    def settings(self, shape: ModelShape, sites: tuple[SiteShape, ...]) -> tuple[Dimension, ...]:
        """Return rank, blocks and scaling; blocks divide every rank and width."""
        ranks = up_to(RANKS, narrowest(sites))
        blocks = dividing(BLOCKS, common_divisor(sites))
        if ranks:
            blocks = tuple(each for each in blocks if min(ranks) % each == 0)
        return (
            ordinal("rank", ranks, 16, "Rank of the update; parameters grow with it."),
            ordinal("blocks", blocks, 2, "Blocks of the factor: devices to serve on."),
            ordinal("alpha_ratio", ALPHA_RATIOS, 2.0, "Alpha as a multiple of the rank."),
        )

    def count(self, site: SiteShape, settings: Mapping[str, Any]) -> int:
        """Count one whole factor and the blocks of the other."""
        rank, blocks = int(settings["rank"]), int(settings["blocks"])
        if site.site in OUTPUT_SITES:
            return rank * (site.in_features // blocks + site.out_features)
        return rank * site.in_features + rank // blocks * site.out_features

    def arguments(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return rank, alpha, and which factor is block-diagonal where."""
        settings: Mapping[str, Any] = module.as_dict()
        by_rows, by_columns = _names(site for site, _ in placed_on(shape, module))
        return {
            "r": settings["rank"],
            "lora_alpha": plain_number(settings["rank"] * settings["alpha_ratio"]),
            "lora_dropout": 0.0,
            "bias": "none",
            "use_bdlora": {
                "target_modules_bd_a": sorted(by_rows),
                "target_modules_bd_b": sorted(by_columns),
                "nblocks": settings["blocks"],
                "match_strict": True,
            },
        }

    def settings_from_peft(self, shape: ModelShape, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the settings."""
        blocks = config.get("use_bdlora")
        if not blocks:
            raise ValueError("it has no use_bdlora")
        for site, _ in self.placed_by(shape, config):
            if _factor(blocks, site.path) != ("A" if site.site in OUTPUT_SITES else "B"):
                raise ValueError(f"its block-diagonal factor at {site.site} is not the usual one")
        return {
            "rank": config["r"],
            "blocks": blocks["nblocks"],
            "alpha_ratio": config["lora_alpha"] / config["r"],
        }

    def unavailable(self, shape: ModelShape) -> str | None:
        """Refuse models where a name stands for layers of both sorts."""
        by_rows, by_columns = _names(self.offered(shape))
        both = sorted(a for a in by_rows if any(a in b or b in a for b in by_columns))
        if both:
            return f"{', '.join(both)} names layers that are cut by rows and by columns alike"
        return super().unavailable(shape)


def _names(sites: Iterable[SiteShape]) -> tuple[set[str], set[str]]:
    """Return the endings of the names of layers cut by rows, and of those cut by columns."""
    endings = [(site.site in OUTPUT_SITES, site.path.split("{layer}")[-1]) for site in sites]
    return ({end for is_row, end in endings if is_row}, {e for is_row, e in endings if not is_row})


def _factor(config: Mapping[str, Any], path: str) -> str:
    """Return which factor a published config makes block-diagonal on a layer."""
    by_rows, by_columns = (
        any(each in path for each in config.get(field) or ())
        for field in ("target_modules_bd_a", "target_modules_bd_b")
    )
    return {(True, False): "A", (False, True): "B"}.get((by_rows, by_columns), "none or both")
