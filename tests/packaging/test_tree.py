"""The checkout: links, machine paths, tested versions."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import autopeft
from tests.packaging.sources import tracked_files

# Folders of somebody's machine; `me`, `you` and `user` stand for anybody.
MACHINE_PATH = re.compile(
    r"(?<![\w~.}])/(?:(?:home|Users)/(?!(?:me|you|user)\b)|root/|work/)\w|\b[A-Z]:\\\\?Users\b|file:///\w"
)
PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][0-9A-Za-z.]*(?: ; .+)?")


@pytest.mark.parametrize("name", ["search_spaces", "workers", "results"])
def test_top_level_links_lead_to_the_rooms(repository: Path, name: str) -> None:
    link = repository / name
    assert link.is_symlink()
    assert link.readlink() == Path("autopeft") / name
    assert (link / "__init__.py").is_file()


@pytest.mark.parametrize("tool", ["ruff", "mypy", "pytest"])
def test_no_tool_is_told_to_walk_or_to_skip_a_room(repository: Path, tool: str) -> None:
    with (repository / "pyproject.toml").open("rb") as stream:
        settings = json.dumps(tomllib.load(stream)["tool"][tool])
    assert not re.search(r'"(?:\./|\*\*/)?(?:search_spaces|workers|results)/?"', settings)


def test_no_file_names_a_path_of_some_machine(repository: Path) -> None:
    files = tracked_files(repository)
    if not files:
        pytest.skip("not a git checkout")
    found = []
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(repository)}: {m}" for m in MACHINE_PATH.findall(text)]
    assert not found


@pytest.mark.parametrize(
    "text", ["/home/" + "ann/data", "C:" + r"\Users\ann", "/Users/" + "ann", "file:///" + "srv"]
)
def test_the_search_for_machine_paths_finds_them(text: str) -> None:
    assert MACHINE_PATH.search(f"see {text} for more")


@pytest.mark.parametrize("text", ["/home/me/runs", "~/work/runs", "rooms/home/x", "https://a.b/c"])
def test_the_search_for_machine_paths_lets_others_be(text: str) -> None:
    assert not MACHINE_PATH.search(f"see {text} for more")


def test_the_version_is_one(repository: Path) -> None:
    with (repository / "pyproject.toml").open("rb") as stream:
        declared = tomllib.load(stream)["project"]["version"]
    assert declared == autopeft.__version__ == version("autopeft")


def pins(repository: Path) -> dict[str, str]:
    """Read ``constraints.txt``: canonical name to version."""
    lines = (repository / "constraints.txt").read_text().splitlines()
    kept = [line for line in lines if line and not line.startswith("#")]
    pairs = [line.partition(";")[0].strip().partition("==") for line in kept]
    return {canonicalize_name(name): release for name, _, release in pairs}


def test_constraints_are_plain_pins(repository: Path) -> None:
    lines = (repository / "constraints.txt").read_text().splitlines()
    odd = [line for line in lines if line and not line.startswith("#") and not PIN.fullmatch(line)]
    assert not odd, "no URLs, no paths, no builds (+cpu): name==release"


def closure(root: str, extras: frozenset[str]) -> frozenset[str]:
    """Canonical names of all that ``root[extras]`` brings on this platform, itself left out."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(root, extras)]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        for line in requires(name) or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *wanted)):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return frozenset(name for name, _ in seen) - {root}


def test_every_dependency_has_a_tested_version(repository: Path) -> None:
    # The CUDA libraries of torch's other builds are pinned by torch itself.
    brought = {n for n in closure("autopeft", frozenset({"dev"})) if not n.startswith("nvidia-")}
    assert brought - pins(repository).keys() <= {"triton", "cuda-bindings", "cuda-pathfinder"}


def test_tested_versions_meet_the_declared_bounds(repository: Path) -> None:
    tested = pins(repository)
    with (repository / "pyproject.toml").open("rb") as stream:
        project = tomllib.load(stream)["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = [Requirement(line) for lines in lists for line in lines]
    outside = [
        str(requirement)
        for requirement in declared
        if (release := tested.get(canonicalize_name(requirement.name)))
        and release not in requirement.specifier
    ]
    assert not outside
