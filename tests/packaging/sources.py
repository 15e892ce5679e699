"""The checkout as a packager sees it: tracked files, and a clean copy to build from."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

PACKAGED = ("pyproject.toml", "README.md", "LICENSE")


def tracked_files(repository: Path) -> tuple[Path, ...]:
    """Return the regular files that git tracks or would take up; none outside a git checkout.

    Links are left out: their targets are listed under their own names.
    """
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=repository,
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ()
    names = [name for name in listed.stdout.decode().split("\0") if name]
    paths = [repository / name for name in names]
    return tuple(path for path in paths if path.is_file() and not path.is_symlink())


def copy_sources(repository: Path, folder: Path) -> Path:
    """Copy to ``folder`` what a wheel is built from, so that the checkout stays as it is."""
    folder.mkdir(parents=True)
    for name in PACKAGED:
        shutil.copy(repository / name, folder / name)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(repository / "autopeft", folder / "autopeft", ignore=ignored)
    for link in ("search_spaces", "workers", "results"):
        (folder / link).symlink_to(Path("autopeft") / link)
    return folder


def build_wheel(source: Path, out: Path) -> Path:
    """Build the wheel of ``source`` in ``out`` with the setuptools that is installed."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel
