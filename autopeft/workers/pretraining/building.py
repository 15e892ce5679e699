"""Build a built-in language model once and keep it in the user's cache.

The cache is ``$AUTOPEFT_CACHE``, or ``$XDG_CACHE_HOME/autopeft``, or ``~/.cache/autopeft``. A
build is kept under the name, version and seed of its recipe. The versions of the libraries that
it was made from are *not* part of that name: a model that jobs were started on stays what it is
when a library is upgraded. They are on its card (``card.json``), and
``autopeft build NAME --force`` makes it anew.

A build goes on where it was interrupted: the tokens are kept from the first, and training from
its last checkpoint. A lock lets one process build; others wait and then take what it made.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autopeft.errors import ModelError
from autopeft.workers.pretraining.progress import BuildProgress, OnProgress
from autopeft.workers.pretraining.recipe import RECIPES, Recipe, get_recipe

CARD = "card.json"
CACHE_VARIABLE = "AUTOPEFT_CACHE"
SECONDS_BETWEEN_PHASES = 10.0


def cache_folder() -> Path:
    """Return the folder that AutoPEFT keeps what it builds in; it need not exist."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "autopeft"


def model_folder(name: str) -> Path:
    """Return where the model called ``name`` is kept; it need not exist.

    Raises:
        ModelError: there is no such recipe.
    """
    return cache_folder() / "models" / get_recipe(name).key


def is_built(name: str) -> bool:
    """Return whether the model called ``name`` is in the cache."""
    return (model_folder(name) / CARD).is_file()


def read_card(name: str) -> dict[str, Any]:
    """Return what is known of a built model: recipe, versions, curve, perplexity, hashes.

    Raises:
        ModelError: it is not built, or its card cannot be read.
    """
    path = model_folder(name) / CARD
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        recipe = get_recipe(name)
        raise ModelError(
            f"builtin:{recipe.name} is not built yet",
            hint=f"autopeft build {recipe.name} ({recipe.duration})",
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read: {error}", hint=f"autopeft build {name} --force"
        ) from error
    return card


def built_folder(name: str) -> Path:
    """Return the folder of a built model, its files checked against the hashes on its card.

    Raises:
        ModelError: it is not built, or a file is missing or has changed.
    """
    card, folder = read_card(name), model_folder(name)
    for file, expected in card["sha256"].items():
        path = folder / file
        if not path.is_file() or _sha256(path) != expected:
            what = "is not what was built" if path.is_file() else "is missing"
            raise ModelError(
                f"{path} {what}", hint=f"autopeft build {get_recipe(name).name} --force"
            )
    return folder


def build(
    name: str, *, on_progress: OnProgress = lambda progress: None, force: bool = False
) -> Path:
    """Return the folder of the model called ``name``; build it first where it is not there.

    Args:
        name: Of a recipe, with or without ``builtin:``.
        on_progress: Told how far the build is.
        force: Build it anew, from nothing, even where it is there.

    Raises:
        ModelError: no such recipe, a damaged build, or a cache that cannot be written.
        DataError: no library to read is installed.
    """
    from filelock import FileLock, Timeout

    recipe = get_recipe(name)
    final = model_folder(name)
    if not force and is_built(name):
        return built_folder(name)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(final.with_name(f"{final.name}.lock"))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            on_progress(BuildProgress(stage="waiting for another process that builds it"))
            lock.acquire()
        try:
            if is_built(name) and not force:
                return built_folder(name)
            _build(recipe, final, on_progress, force=force)
        finally:
            lock.release()
    except OSError as error:
        raise ModelError(
            f"builtin:{recipe.name} cannot be built in {final.parent}: {error}",
            hint=f"name a folder to write to in {CACHE_VARIABLE}",
        ) from error
    return final


def build_if_missing(name: str, on_phase: Callable[[str], None]) -> None:
    """Build the model that a job names, where it has a recipe and is not in the cache.

    Args:
        name: A job's ``model.name``; one without a recipe is passed over.
        on_phase: Told what is going on, in one line, not more often than every ten seconds.
    """
    if name.removeprefix("builtin:") not in RECIPES or not name.startswith("builtin:"):
        return
    recipe = get_recipe(name)
    if is_built(name):
        return
    on_phase(f"building {name}, once: {recipe.duration}; it is kept in {cache_folder()}")
    told = [time.monotonic()]

    def on_progress(progress: BuildProgress) -> None:
        if time.monotonic() - told[0] >= SECONDS_BETWEEN_PHASES:
            told[0] = time.monotonic()
            on_phase(f"building {name}: {progress}")

    build(name, on_progress=on_progress)


def _build(recipe: Recipe, final: Path, on_progress: OnProgress, *, force: bool) -> None:
    """Build into a folder beside ``final``, then put it in its place."""
    from autopeft.workers.pretraining.steps import build_model

    building = final.with_name(f".{final.name}.building")
    if force:
        shutil.rmtree(building, ignore_errors=True)
    building.mkdir(exist_ok=True)
    result = building / "model"
    shutil.rmtree(result, ignore_errors=True)
    facts = build_model(recipe, building, result, on_progress)
    hashes = {path.name: _sha256(path) for path in sorted(result.iterdir())}
    card = {**facts, "built": time.strftime("%Y-%m-%d"), "sha256": hashes}
    (result / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    if final.exists():
        shutil.rmtree(final)
    result.rename(final)
    shutil.rmtree(building, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
