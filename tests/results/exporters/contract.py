"""What every exporter must do; an exporter's tests inherit :class:`ExporterContract`.

The class that inherits it has fixtures ``exporter`` and ``request_``, a request for a trial
that the tool can express.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autopeft.errors import ExportError
from autopeft.records import TrialStatus
from autopeft.results.exporters.base import EXPORTERS, Exporter, ExportRequest


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class ExporterContract:
    def test_is_found_by_name(self, exporter: Exporter) -> None:
        assert EXPORTERS.get(exporter.tool) is type(exporter)

    def test_a_completed_trial_has_no_obstacles(
        self, exporter: Exporter, request_: ExportRequest
    ) -> None:
        assert exporter.obstacles(request_) == []

    @pytest.mark.parametrize("is_there", [False, True])
    def test_writes_into_a_new_or_empty_folder(
        self, exporter: Exporter, request_: ExportRequest, tmp_path: Path, is_there: bool
    ) -> None:
        target = tmp_path / "out"
        if is_there:
            target.mkdir()
        exporter.write(request_, target)

        assert any(target.iterdir())
        assert list(tmp_path.iterdir()) == [target]

    def test_makes_the_folders_above(
        self, exporter: Exporter, request_: ExportRequest, tmp_path: Path
    ) -> None:
        exporter.write(request_, tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b").is_dir()

    def test_writes_the_same_twice(
        self, exporter: Exporter, request_: ExportRequest, tmp_path: Path
    ) -> None:
        exporter.write(request_, tmp_path / "one")
        exporter.write(request_, tmp_path / "two")
        assert tree(tmp_path / "one") == tree(tmp_path / "two")

    def test_leaves_the_job_as_it_was(
        self, exporter: Exporter, request_: ExportRequest, tmp_path: Path
    ) -> None:
        before = tree(request_.checkpoint), tree(request_.assets)
        exporter.write(request_, tmp_path / "out")
        assert (tree(request_.checkpoint), tree(request_.assets)) == before

    def test_refuses_a_folder_in_use(
        self, exporter: Exporter, request_: ExportRequest, tmp_path: Path
    ) -> None:
        (tmp_path / "mine.txt").write_text("keep")
        with pytest.raises(ExportError, match="exists already and is not an empty folder"):
            exporter.write(request_, tmp_path)
        with pytest.raises(ExportError, match="exists already"):
            exporter.write(request_, tmp_path / "mine.txt")

        assert tree(tmp_path) == {"mine.txt": b"keep"}

    def test_refuses_a_trial_that_did_not_complete(
        self, exporter: Exporter, request_: ExportRequest, tmp_path: Path
    ) -> None:
        stopped = replace(request_, state=replace(request_.state, status=TrialStatus.STOPPED))
        with pytest.raises(ExportError, match="is stopped, not completed"):
            exporter.write(stopped, tmp_path / "out")

        assert list(tmp_path.iterdir()) == []

    def test_refuses_a_trial_without_a_checkpoint(
        self, exporter: Exporter, request_: ExportRequest, tmp_path: Path
    ) -> None:
        gone = replace(request_, checkpoint=tmp_path / "absent")
        with pytest.raises(ExportError, match="has no checkpoint any more"):
            exporter.write(gone, tmp_path / "out")
