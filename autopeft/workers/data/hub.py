"""Data sets of the Hugging Face hub, through the optional library ``datasets``."""

from __future__ import annotations

from typing import Any

from autopeft.errors import DataError
from autopeft.naming import or_nearest
from autopeft.workers.data.table import Table
from autopeft.workers.dataset import SPLIT_NAMES, SplitName
from autopeft.workers.settings import DataSettings

#: Names a split goes by on the hub, most usual first.
USUAL_SPLITS: dict[SplitName, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}


def read_hub(settings: DataSettings) -> tuple[dict[SplitName, Table], dict[str, Any]]:
    """Return the splits a hub data set has, at least ``train``, and where they come from.

    Raises:
        DataError: ``datasets`` is not installed, the hub cannot be reached, or there is no such
            data set, configuration or split.
    """
    loaded = _load(settings)
    tables: dict[SplitName, Table] = {}
    chosen: dict[str, str] = {}
    for split in SPLIT_NAMES:
        name = _split_name(split, getattr(settings, split), list(loaded), settings)
        if name is not None:
            chosen[split] = name
            tables[split] = _table(loaded[name], f"{settings.name}, split {name}")
    return tables, {
        "source": "hub",
        "name": settings.name,
        "config": settings.config,
        "splits": chosen,
        "dataset_fingerprints": {s: loaded[name]._fingerprint for s, name in chosen.items()},
    }


def _load(settings: DataSettings) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"data set {settings.name!r} is on the hub, and the library that reads the hub "
            "(datasets) is not installed",
            hint="pip install 'autopeft[hub]', or give local files: data: {train: FILE.jsonl}",
        ) from error
    try:
        return datasets.load_dataset(settings.name, settings.config)
    # The library raises its own errors, those of its HTTP client and plain ValueErrors alike.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"data set {settings.name!r} cannot be loaded from the hub: {reason}",
            hint="check its name and configuration, and the network; or give local files: "
            "data: {train: FILE.jsonl}",
        ) from error


def _split_name(
    split: SplitName, wanted: str | None, names: list[str], settings: DataSettings
) -> str | None:
    """Return the hub's name for a split; None where it has none and none was asked for."""
    if wanted is None:
        found = next((name for name in USUAL_SPLITS[split] if name in names), None)
        if found is not None or split != "train":
            return found
        wanted = "train"
    if wanted not in names:
        raise DataError(
            f"data set {settings.name!r} has no split {wanted!r}{or_nearest(wanted, names)}",
            hint=f"its splits are: {', '.join(names)}; say which with data: {{{split}: ...}}",
        )
    return wanted


def _table(dataset: Any, origin: str) -> Table:
    columns: dict[str, list[Any]] = {name: dataset[name][:] for name in dataset.column_names}
    label_names: dict[str, tuple[str, ...]] = {}
    for name, feature in dataset.features.items():
        # Tags are lists of labels: their names stand one level below.
        names = getattr(feature, "names", None)
        if names is None:
            names = getattr(getattr(feature, "feature", None), "names", None)
        if names is not None:
            label_names[name] = tuple(names)
            # The hub writes -1 for a label that is kept secret.
            columns[name] = [None if value == -1 else value for value in columns[name]]
    return Table(columns=columns, origin=origin, label_names=label_names or None)
