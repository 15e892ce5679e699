"""One way to name and find the implementations behind every seam.

A seam is an abstract class with a :class:`Registry`; an implementation joins it with one
line, or from another package through the entry-point group ``autopeft.<seam>``::

    PROPOSERS: Registry[Proposer] = Registry("proposers", package="autopeft.proposers")

    @PROPOSERS.register("random")
    class RandomProposer(Proposer): ...

Implementations live one to a file inside ``package``; they are imported the first time a
name is asked for, so that declaring a registry costs nothing.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from autopeft.errors import AutopeftError
from autopeft.naming import or_nearest

T = TypeVar("T")
C = TypeVar("C", bound=type[Any])


class Registry(Generic[T]):
    """Classes of one seam by name.

    Args:
        seam: Plural name of the seam; also the last part of its entry-point group.
        package: Dotted package whose modules hold the built-in implementations.
    """

    def __init__(self, seam: str, *, package: str) -> None:
        self.seam = seam
        self._package = package
        self._classes: dict[str, type[T]] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[C], C]:
        """Register the decorated class under ``name``; a name can be taken only once."""

        def add(cls: C) -> C:
            known = self._classes.setdefault(name, cls)
            if known is not cls and known.__qualname__ != cls.__qualname__:
                raise AutopeftError(
                    f"two classes want the name {name!r} among the {self.seam}: "
                    f"{known.__qualname__} and {cls.__qualname__}",
                    hint="rename one of them, or uninstall the package that brings it",
                )
            return cls

        return add

    def names(self) -> tuple[str, ...]:
        """Return every known name, sorted."""
        self._load()
        return tuple(sorted(self._classes))

    def get(self, name: str) -> type[T]:
        """Return the class registered under ``name``.

        Raises:
            AutopeftError: the name is unknown; the message offers the nearest one.
        """
        self._load()
        if name not in self._classes:
            singular = self.seam.removesuffix("s")
            raise AutopeftError(
                f"unknown {singular} {name!r}{or_nearest(name, self._classes)}",
                hint=f"choose one of: {', '.join(self.names())}",
            )
        return self._classes[name]

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{self._package}.{module.name}")
        for entry in entry_points(group=f"autopeft.{self.seam}"):
            self.register(entry.name)(entry.load())
