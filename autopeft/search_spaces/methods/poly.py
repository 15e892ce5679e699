"""Polytropon: a library of LoRA modules, mixed for each task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, LearningRateRange
from autopeft.search_spaces.methods._needs_more import NeedsMore
from autopeft.search_spaces.targets import placed_on, sites_of, target_pattern


@METHODS.register("poly")
class Poly(NeedsMore):
    """Ponti et al. 2022 (equation 4 of arXiv 2202.13914); MHR with several heads (2211.03831)."""

    name = "poly"
    title = "Polytropon"
    family = "low-rank"
    paper = "arXiv 2202.13914"
    peft_type = "POLY"
    needs = "every batch has to say which of several tasks its rows are of"
    # The paper trains at 1e-3; LoRA's range.
    learning_rate = LearningRateRange(low=2e-4, default=2e-3, high=1e-2)

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count a LoRA for each skill, and a weight for each task, skill and head."""
        settings: Mapping[str, Any] = module.as_dict()
        skills = settings["skills"]
        return sum(
            len(layers)
            * (
                skills * settings["rank"] * (site.in_features + site.out_features)
                + settings["tasks"] * skills * settings["heads"]
            )
            for site, layers in placed_on(shape, module)
        )

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``peft.PolyConfig``."""
        return {
            "peft_type": self.peft_type,
            "r": module["rank"],
            "n_skills": module["skills"],
            "n_tasks": module["tasks"],
            "n_splits": module["heads"],
            "target_modules": target_pattern(shape, module.layers, sites_of(module)),
        }
