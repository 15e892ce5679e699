"""CPT: a prompt that starts at the tokens of worked examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, LearningRateRange
from autopeft.search_spaces.methods._needs_more import NeedsMore


@METHODS.register("cpt")
class Cpt(NeedsMore):
    """Blau et al. 2024 (arXiv 2410.17222): context-aware prompt tuning."""

    name = "cpt"
    title = "CPT"
    family = "prompt"
    paper = "arXiv 2410.17222"
    peft_type = "CPT"
    needs = "its prompt is made of worked examples, token by token, that someone has to choose"
    starts_as_base = False
    # The paper trains at 1e-5 to 1e-3, its steps being bounded by a projection.
    learning_rate = LearningRateRange(low=1e-5, default=1e-4, high=1e-3)

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count an offset for each token of the examples."""
        tokens = module["tokens"]
        assert isinstance(tokens, tuple)
        return len(tokens) * shape.hidden_size

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``peft.CPTConfig``."""
        settings = module.as_dict()
        fields = {"tokens": "cpt_token_ids", "mask": "cpt_mask", "types": "cpt_tokens_type_mask"}
        lists = {}
        for name, field in fields.items():
            values = settings[name]
            assert isinstance(values, tuple)
            lists[field] = [int(value) for value in values]
        return {"peft_type": self.peft_type, **lists}

    def published(self, shape: ModelShape, config: Mapping[str, Any]) -> Module:
        """Return the tokens of a published config."""
        fields = {"tokens": "cpt_token_ids", "mask": "cpt_mask", "types": "cpt_tokens_type_mask"}
        values = {name: tuple(map(str, config[field])) for name, field in fields.items()}
        return Module.of(self.name, tuple(range(shape.num_layers)), **values)
