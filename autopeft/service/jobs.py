"""The folder of a job: what lies where, and how to open it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from autopeft.errors import JobFolderError
from autopeft.results.job_log import JobLog, fold
from autopeft.results.sqlite_store import SqliteStore

#: Packages whose versions can change a result; recorded with the job.
RECORDED_PACKAGES = ("autopeft", "torch", "transformers", "peft", "botorch", "numpy", "ray")


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Paths inside one job's folder.

    Attributes:
        root: The folder the user named as ``output``.
    """

    root: Path

    @property
    def log(self) -> Path:
        """The append-only log."""
        return self.root / "log.sqlite"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of live and paused trials and of the front."""
        return self.root / "checkpoints"

    @property
    def assets(self) -> Path:
        """Tokenizer files and facts that an export needs."""
        return self.root / "assets"

    @property
    def metric(self) -> Path:
        """The job's own copy of the user's metric, where it names one in a file."""
        return self.root / "metric.py"

    @property
    def confirmation(self) -> Path:
        """Log of the finalists' retrainings, scored on the test split."""
        return self.root / "confirmation.sqlite"

    def create(self) -> list[Path]:
        """Make the folder, and return the folders above it that were made for it, inmost first.

        Raises:
            JobFolderError: it holds files already, or cannot be made.
        """
        self.require_free()
        made = [each for each in self.root.absolute().parents if not each.exists()]
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JobFolderError(
                f"cannot create output folder {str(self.root)!r}: {error.strerror or error}",
                hint="name a folder you may write to with --output",
            ) from error
        return made

    def require_free(self) -> None:
        """Make sure that a job can begin there; nothing is made.

        Raises:
            JobFolderError: it is a file, or holds files already.
        """
        if self.root.exists() and not self.root.is_dir():
            raise JobFolderError(
                f"output {str(self.root)!r} is a file, expected a new or empty folder",
                hint="name another folder with --output",
            )
        if self.log.exists():
            raise JobFolderError(
                f"output {str(self.root)!r} already holds a job",
                hint=f"continue it with `autopeft resume {self.root}`, "
                "or name another folder with --output",
            )
        if self.root.exists() and any(self.root.iterdir()):
            raise JobFolderError(
                f"output folder {str(self.root)!r} is not empty and holds no job",
                hint="name a new or empty folder with --output",
            )

    def remove_empty_job(self, made: Sequence[Path] = ()) -> None:
        """Remove the log of a job that measured nothing, and the folder if that empties it.

        Args:
            made: Folders above it that were made for it, inmost first; they go too, if empty.
        """
        for path in (*self.root.glob(f"{self.log.name}*"), self.assets, self.metric):
            if path.is_file():
                path.unlink()
        shutil.rmtree(self.assets, ignore_errors=True)
        for folder in (self.checkpoints, self.root, *made):
            with suppress(OSError):
                folder.rmdir()

    def require(self) -> None:
        """Make sure a job is there.

        Raises:
            JobFolderError: the folder is missing or holds no job.
        """
        if not self.root.exists():
            raise JobFolderError(
                f"there is no folder {str(self.root)!r}",
                hint="start a job with `autopeft search JOB.yaml`",
            )
        if not self.log.is_file():
            raise JobFolderError(
                f"{str(self.root)!r} is not a job folder: it holds no {self.log.name}",
                hint="give the folder named as `output` in the job file",
            )


def open_job(folder: Path) -> JobLog:
    """Read the log of a job, running or finished.

    Raises:
        JobFolderError: ``folder`` is missing, foreign or damaged.
    """
    paths = JobFolder(folder)
    paths.require()
    store = SqliteStore(paths.log, read_only=True)
    try:
        return fold(store.read())
    finally:
        store.close()


def recorded_versions() -> dict[str, str]:
    """Return the installed versions of the packages that can change a result."""
    versions = {}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
