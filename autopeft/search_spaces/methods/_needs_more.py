"""Methods that cannot be trained from a config and the user's data alone: listed, never offered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from autopeft.records import ModelShape
from autopeft.search_spaces.configuration import Module
from autopeft.search_spaces.method import Dimension, Method


class NeedsMore(Method):
    """A method of PEFT that a search cannot offer, because it needs more than a job gives.

    A published adapter of it can be counted and loaded all the same.
    """

    peft_type: ClassVar[str]
    #: What is missing, in a few words for people.
    needs: ClassVar[str]
    is_placeable: ClassVar[bool] = False
    is_combinable: ClassVar[bool] = False

    def dimensions(self, shape: ModelShape) -> tuple[Dimension, ...]:
        """Return nothing: there is nothing to search."""
        return ()

    def unavailable(self, shape: ModelShape) -> str | None:
        """Refuse every model, and say what is missing."""
        return self.needs

    @classmethod
    def from_peft_config(cls, shape: ModelShape, config: Mapping[str, Any]) -> Module:
        """Return the module that a published config means on a model."""
        if config.get("peft_type") != cls.peft_type:
            raise ValueError(f"its type is {config.get('peft_type')}, not {cls.peft_type}")
        return cls().published(shape, config)

    def published(self, shape: ModelShape, config: Mapping[str, Any]) -> Module:
        """Return the module of a published config of this type; by default there is none.

        Raises:
            ValueError: it cannot be said what it means.
        """
        raise ValueError(self.needs)
