"""What a module is on a layer, and on all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autopeft.search_spaces.configuration import Setting
from autopeft.workers.memory.accounts import Account
from autopeft.workers.memory.growth import Place


class Placed:
    """What a module is on a layer, one object for equal settings of one method.

    Args:
        settings: Its settings there.
        account: Of these.
        num_stacks: Stacks of the model.

    Attributes:
        settings: The same.
        account: The same.
        sources: By stack what of the account they switch on.
        stretch: Part of the text's length that it adds to it.
    """

    __slots__ = ("_changes", "_grown", "account", "settings", "sources", "stretch")

    def __init__(self, settings: Mapping[str, Setting], account: Account, num_stacks: int) -> None:
        self.settings = settings
        self.account = account
        self.sources = [account.sources(settings, stack) for stack in range(num_stacks)]
        self.stretch = account.stretch(settings)
        self._grown: dict[Place, tuple[float, float, float]] = {}
        self._changes: dict[Place, float] = {}

    def grown(self, place: Place) -> tuple[float, float, float]:
        """Return what the numeric settings add at a place: see ``growth.Bytes``."""
        found = self._grown.get(place)
        if found is None:
            saved, resident, of_weights = self.account.growth.at(place, self.settings).tolist()
            found = self._grown[place] = (saved, resident, of_weights)
        return found

    def change(self, place: Place, base: float) -> float:
        """Return what the module does to a worst moment.

        Of its sites, of kinds apart, the one that adds most and the one that takes most count.

        Args:
            place: Stack and moment.
            base: What the moment adds where no method does anything to it.
        """
        found = self._changes.get(place)
        if found is None:
            more = self.grown(place)[0] - base
            changes = [
                excess[place] + more
                for excess in self.account.excesses(self.settings)
                if place in excess
            ]
            found = self._changes[place] = (
                max(0.0, *changes) + min(0.0, *changes) if changes else 0.0
            )
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What a module puts on the layers.

    Attributes:
        first: One of ``by_layer``.
        by_layer: Settings and account for each layer that carries it.
        trained: Bytes that train in each of these layers.
    """

    first: Placed
    by_layer: Mapping[int, Placed]
    trained: float
