"""Which checkpoints of a job are there, as its driver sees them: on disk, or not at all."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Protocol


class Checkpoints(Protocol):
    """What a driver asks of the place where workers leave their checkpoints."""

    def exists(self, name: str) -> bool:
        """Tell whether a checkpoint is there."""

    def keep_only(self, names: Iterable[str], under_way: Collection[int]) -> None:
        """Remove all but some.

        Args:
            names: Checkpoints that are needed.
            under_way: Numbers of the trials whose segments run; theirs stay too.
        """

    def remove_leftovers(self) -> None:
        """Remove what workers left half written; called while none is at work."""


class CheckpointFolder:
    """Checkpoints in a folder.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def exists(self, name: str) -> bool:
        """Tell whether a checkpoint is there."""
        return (self._root / name).is_dir()

    def keep_only(self, names: Iterable[str], under_way: Collection[int]) -> None:
        """Remove all but ``names`` and those of trials under way."""
        from autopeft.workers.checkpoints import list_checkpoints, remove_checkpoint

        keep = set(names)
        prefixes = tuple(f"trial-{number:04d}-" for number in under_way)
        for name in list_checkpoints(self._root):
            if name not in keep and not name.startswith(prefixes):
                remove_checkpoint(self._root, name)

    def remove_leftovers(self) -> None:
        """Remove what workers left half written."""
        from autopeft.workers.checkpoints import remove_leftovers

        remove_leftovers(self._root)


class NamedCheckpoints:
    """Checkpoints of a simulation: names alone, of which every one can be gone on from."""

    def exists(self, name: str) -> bool:
        """Return True."""
        return True

    def keep_only(self, names: Iterable[str], under_way: Collection[int]) -> None:
        """Do nothing: names take no room."""

    def remove_leftovers(self) -> None:
        """Do nothing."""
