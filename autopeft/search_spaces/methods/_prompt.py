"""What methods share that put learned tokens in front of a text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module, Setting
from autopeft.search_spaces.method import Dimension, Method

#: Tasks whose models PEFT wraps with a prompt of its own.
PROMPT_TASKS = frozenset(
    {"classification", "regression", "causal-lm", "seq2seq-lm", "token-classification"}
)


class Prompt(Method):
    """A method of PEFT's prompt learning: one prompt for the whole model, in front of the text.

    It is no part of the module tree, so it has no layers to choose.
    """

    family: ClassVar[str] = "prompt"
    is_placeable: ClassVar[bool] = False
    is_combinable: ClassVar[bool] = False
    exclusive: ClassVar[frozenset[str]] = frozenset({"prompt"})
    tasks: ClassVar[frozenset[str] | None] = PROMPT_TASKS
    starts_as_base: ClassVar[bool] = False
    peft_type: ClassVar[str]
    lengths: ClassVar[tuple[int, ...]] = (1, 2, 4, 8, 16, 32, 64)
    #: Setting that holds the number of virtual tokens.
    length_name: ClassVar[str] = "prompt_length"
    #: Argument of the model's ``forward`` by which the prompt is handed over.
    needs_argument: ClassVar[str] = "inputs_embeds"

    def length_dimension(self, shape: ModelShape, default: int, help: str) -> Dimension:
        """Declare the number of virtual tokens, as far as there are positions left for them."""
        free = shape.num_free_positions
        return Dimension(
            name=self.length_name,
            kind="ordinal",
            values=tuple(each for each in self.lengths if free is None or each <= free),
            default=default,
            help=help,
        )

    def length(self, module: Module) -> int:
        """Return the number of virtual tokens."""
        length = module[self.length_name]
        assert isinstance(length, int)
        return length

    def unavailable(self, shape: ModelShape) -> str | None:
        """Refuse models without room for a prompt or without a way to hand it over."""
        arguments = shape.forward_arguments
        if shape.uses_packing:
            return "a prompt stands in front of a text, and packed sequences hold several texts"
        if "input_ids" not in arguments and arguments:
            return "a prompt stands in front of a text, and the model takes none"
        if self.needs_argument not in arguments and arguments and self.needs_argument:
            return f"{shape.model_type} of transformers takes no {self.needs_argument}"
        if not self.length_dimension(shape, 1, "").values:
            return (
                f"the longest batch leaves {shape.num_free_positions} of the model's positions, "
                f"the shortest prompt takes {min(self.lengths)}"
            )
        return super().unavailable(shape)

    @classmethod
    def from_peft_config(cls, shape: ModelShape, config: Mapping[str, Any]) -> Module:
        """Return the module that a published config means on a model."""
        if config.get("peft_type") != cls.peft_type:
            raise ValueError(f"its type is {config.get('peft_type')}, not {cls.peft_type}")
        settings = cls().settings_from_peft(shape, config)
        return Module.of(cls.name, tuple(range(shape.num_layers)), **settings)

    def settings_from_peft(
        self, shape: ModelShape, config: Mapping[str, Any]
    ) -> Mapping[str, Setting]:
        """Return the settings that a config of PEFT means."""
        return {self.length_name: config["num_virtual_tokens"]}


def decoder_layers(shape: ModelShape) -> int:
    """Return the layers of the last stack: the decoder's where there is one."""
    return shape.stacks[-1][1] if len(shape.stacks) > 1 else shape.num_layers


def refuse(config: Mapping[str, Any], fields: Iterable[str]) -> None:
    """Raise ``ValueError`` where a published config sets what is not searched here."""
    for field in fields:
        if config.get(field):
            raise ValueError(f"{field}={config[field]!r} is not supported")
