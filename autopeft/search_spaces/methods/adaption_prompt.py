"""Adaption prompt: learned tokens that the topmost layers attend to through a gate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import METHODS, Dimension, LearningRateRange, Method

#: Models whose attention PEFT 0.21 knows how to extend, with the name of that module.
ATTENTION_OF = {"llama": "self_attn", "mistral": "self_attn", "gpt2": "attn"}
LENGTHS = (1, 2, 5, 10, 20, 50, 100)


@METHODS.register("adaption-prompt")
class AdaptionPrompt(Method):
    """LLaMA-Adapter (Zhang et al. 2023, equation 8 of arXiv 2303.16199).

    The gate starts at zero. PEFT counts layers from the top, so their number is a dimension in
    place of a placement.
    """

    name = "adaption-prompt"
    title = "Adaption prompt"
    family = "prompt"
    paper = "arXiv 2303.16199"
    is_placeable = False
    counted_by = "num_layers"
    is_combinable = False
    tasks: ClassVar[frozenset[str] | None] = frozenset({"causal-lm"})
    # The paper trains at 9e-3; PEFT's published run at 5e-4 stayed far below LoRA.
    learning_rate = LearningRateRange(low=1e-3, default=1e-2, high=1e-1)

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return prompt length and number of layers."""
        layers = tuple(range(1, shape.num_layers + 1))
        return (
            Dimension(
                name="prompt_length",
                kind="ordinal",
                values=LENGTHS,
                default=10,
                help="Virtual tokens that each layer attends to.",
            ),
            Dimension(
                name="num_layers",
                kind="ordinal",
                values=layers,
                default=shape.num_layers,
                help="Layers, counted from the top, that have a prompt.",
            ),
        )

    def num_parameters(self, shape: ModelShape, module: Module) -> int:
        """Count the tokens and a gate for each layer."""
        settings: Mapping[str, Any] = module.as_dict()
        return int(settings["num_layers"] * (settings["prompt_length"] * shape.hidden_size + 1))

    def peft_config(self, shape: ModelShape, module: Module) -> Mapping[str, Any]:
        """Return the arguments of ``peft.AdaptionPromptConfig``."""
        return {
            "peft_type": "ADAPTION_PROMPT",
            "adapter_len": module["prompt_length"],
            "adapter_layers": module["num_layers"],
            "target_modules": ATTENTION_OF[shape.model_type],
        }

    @classmethod
    def from_peft_config(cls, shape: ModelShape, config: Mapping[str, Any]) -> Module:
        """Return the module that a published config means on a model."""
        if config.get("peft_type") != "ADAPTION_PROMPT":
            raise ValueError(f"its type is {config.get('peft_type')}, not ADAPTION_PROMPT")
        return Module.of(
            cls.name,
            tuple(range(shape.num_layers)),
            prompt_length=config["adapter_len"],
            num_layers=config["adapter_layers"],
        )

    def unavailable(self, shape: ModelShape) -> str | None:
        """Refuse models whose attention PEFT does not know."""
        if shape.model_type not in ATTENTION_OF:
            known = ", ".join(ATTENTION_OF)
            return f"PEFT puts it into the attention of {known} only, not of {shape.model_type}"
        return super().unavailable(shape)
