"""``autopeft doctor``: versions, devices, what is missing and the command that installs it."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import typer
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from autopeft.errors import AutopeftError
from autopeft.service.known_names import known_names

#: Extras of AutoPEFT, with what each is for. Development tools are left out, and so is an extra
#: named after a proposer that is not there.
EXTRAS = {
    "quickstart": "the base model builtin:minilm",
    "hub": "data sets of the Hugging Face hub",
    "quantization": "base models in 4 or 8 bits",
    "notebook": "running the notebooks",
    "optuna": "the proposer optuna",
    "bohb": "the proposer bohb",
    "ax": "the proposer ax",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """An installed or missing package.

    Attributes:
        name: Name on the package index.
        wanted: Versions that AutoPEFT accepts, e.g. ``>=2.6``.
        found: Installed version, None where it is missing.
        extra: The extra that brings it; None for a package AutoPEFT cannot run without.
        is_accepted: Whether the installed version is among the wanted ones.
    """

    name: str
    wanted: str
    found: str | None
    extra: str | None
    is_accepted: bool


def doctor(format_: str) -> None:
    """Print the report as ``table`` or ``json``; exit code 2 where AutoPEFT cannot run."""
    packages = find_packages()
    devices = find_devices()
    unusable = [p for p in packages if p.extra is None and not p.is_accepted]
    advice = list(dict.fromkeys(advise(package) for package in packages if not package.is_accepted))
    if format_ == "json":
        report = {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "packages": [
                {name: getattr(package, name) for name in Package.__slots__} for package in packages
            ],
            "devices": devices,
            "advice": advice,
            "can_run": not unusable,
        }
        typer.echo(json.dumps(report, indent=2))
    else:
        _print_tables(packages, devices, advice, can_run=not unusable)
    if unusable:
        raise typer.Exit(2)


def find_packages() -> list[Package]:
    """Return every package AutoPEFT declares, those of the known extras included."""
    try:
        declared = requires("autopeft") or []
    except PackageNotFoundError as error:
        raise AutopeftError(
            "autopeft itself is not installed, so what it needs is not known",
            hint="in its source folder: pip install -e .",
        ) from error
    proposers = known_names("proposers")
    useful = [name for name in EXTRAS if name in proposers or "proposer" not in EXTRAS[name]]
    found = [_package(Requirement("autopeft"), None)]
    for text in declared:
        requirement = Requirement(text)
        extras = [
            extra
            for extra in useful
            if requirement.marker is not None and requirement.marker.evaluate({"extra": extra})
        ]
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found.append(_package(requirement, None))
        elif extras:
            found.append(_package(requirement, extras[0]))
    return found


def advise(package: Package) -> str:
    """Return the command that installs a missing package."""
    if package.extra is None:
        return f"pip install '{package.name}{package.wanted}'"
    return f"pip install 'autopeft[{package.extra}]'  # for {EXTRAS[package.extra]}"


def find_devices() -> list[dict[str, Any]]:
    """Return what there is to compute on: the CPU, then each accelerator torch can use."""
    devices: list[dict[str, Any]] = [
        {
            "device": "cpu",
            "name": platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "memory_bytes": _memory_bytes(),
        }
    ]
    if importlib.util.find_spec("torch") is None:
        return devices
    import torch

    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        devices.append(
            {
                "device": f"cuda:{number}",
                "name": properties.name,
                "cores": properties.multi_processor_count,
                "memory_bytes": properties.total_memory,
            }
        )
    if torch.backends.mps.is_available():
        devices.append(
            {"device": "mps", "name": "Apple GPU", "cores": None, "memory_bytes": _memory_bytes()}
        )
    return devices


def _package(requirement: Requirement, extra: str | None) -> Package:
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        found = None
    return Package(
        name=requirement.name,
        wanted=str(requirement.specifier),
        found=found,
        extra=extra,
        is_accepted=found is not None and requirement.specifier.contains(found, prereleases=True),
    )


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _print_tables(
    packages: list[Package], devices: list[dict[str, Any]], advice: list[str], *, can_run: bool
) -> None:
    from autopeft.results.report import bytes_text

    console = Console()
    console.print(f"Python {platform.python_version()}, {platform.platform()}", highlight=False)
    table = Table("package", "version", "wanted", "for", title="Packages", title_justify="left")
    for package in packages:
        state = package.found or "missing"
        style = None if package.is_accepted else "yellow" if package.extra else "red"
        purpose = EXTRAS[package.extra] if package.extra else ""
        table.add_row(package.name, state, package.wanted, purpose, style=style)
    console.print(table)
    table = Table("device", "name", "cores", "memory", title="Devices", title_justify="left")
    for device in devices:
        memory = bytes_text(device["memory_bytes"]) if device["memory_bytes"] else "unknown"
        cores = str(device["cores"] or "unknown")
        table.add_row(device["device"], device["name"], cores, memory)
    console.print(table)
    if advice:
        typer.echo("Missing or of another version; install what you need:")
        for command in advice:
            typer.echo(f"  {command}")
    typer.echo("AutoPEFT can run here." if can_run else "AutoPEFT cannot run here.")
