"""The wheel holds the whole of ``autopeft`` and nothing else."""

from __future__ import annotations

import email
import re
import tomllib
import zipfile
from pathlib import Path

import pytest
import setuptools

from tests.packaging.sources import build_wheel, copy_sources


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return build_wheel(copy_sources(repository, folder / "source"), folder / "out")


@pytest.fixture(scope="module")
def contents(wheel: Path) -> frozenset[str]:
    with zipfile.ZipFile(wheel) as archive:
        return frozenset(archive.namelist())


def source_files(repository: Path) -> frozenset[str]:
    """Every file under ``autopeft/`` that is not a by-product, as a path inside the wheel."""
    return frozenset(
        path.relative_to(repository).as_posix()
        for path in (repository / "autopeft").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )


def test_the_wheel_holds_every_source_file_and_nothing_else(
    repository: Path, contents: frozenset[str]
) -> None:
    inside = {name for name in contents if ".dist-info/" not in name}
    assert inside == source_files(repository)


def test_every_folder_of_code_is_a_package(repository: Path) -> None:
    folders = {path.parent for path in (repository / "autopeft").rglob("*.py")}
    bare = [folder for folder in folders if not (folder / "__init__.py").exists()]
    assert not bare, "without __init__.py setuptools leaves it out of the wheel"


def test_setuptools_discovers_one_import_package(repository: Path) -> None:
    with (repository / "pyproject.toml").open("rb") as stream:
        find = tomllib.load(stream)["tool"]["setuptools"]["packages"]["find"]
    found = setuptools.find_packages(str(repository), **find)
    assert {name.partition(".")[0] for name in found} == {"autopeft"}


@pytest.mark.parametrize("pattern", [r"autopeft/py\.typed", r"autopeft/search_spaces/.*\.yaml"])
def test_the_wheel_holds_data_files(contents: frozenset[str], pattern: str) -> None:
    assert any(re.fullmatch(pattern, name) for name in contents)


def test_the_wheel_carries_the_licence_and_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        folder = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        info = folder.removesuffix("METADATA")
        metadata = email.message_from_bytes(archive.read(folder))
        commands = archive.read(info + "entry_points.txt").decode()
        licence = archive.read(info + "licenses/LICENSE").decode()
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "autopeft = autopeft.cli:main" in commands
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
