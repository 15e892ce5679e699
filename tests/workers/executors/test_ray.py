from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from autopeft.errors import ModelError, WorkerError
from autopeft.records import FailureKind, SegmentDone, SegmentFailed
from autopeft.workers.executors.base import Executor
from autopeft.workers.executors.ray import RayExecutor
from autopeft.workers.settings import WorkersSettings
from autopeft.workers.worker import WorkerPlan
from tests.workers import tiny
from tests.workers.executors.contract import TrainingExecutorContract

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Start Ray once for all these tests; executors join what runs and leave it running."""
    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=80 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    yield
    ray.shutdown()


def start(plan: WorkerPlan, folder: Path, checkpoints: Path, num_workers: int) -> RayExecutor:
    settings = tiny.make_settings(folder, checkpoints)
    return RayExecutor(settings, WorkersSettings(num=num_workers, cpus=1), plan)


class TestRay(TrainingExecutorContract):
    def start(
        self, plan: WorkerPlan, folder: Path, checkpoints: Path, num_workers: int
    ) -> Executor:
        return start(plan, folder, checkpoints, num_workers)


def test_waiting_ends_in_time(tiny_plan: WorkerPlan, tiny_folder: Path, tmp_path: Path) -> None:
    with start(tiny_plan, tiny_folder, tmp_path, 1) as executor:
        executor.submit(tiny.first_segment(0, "beft", to_step=1))
        assert executor.next_event(0.0) is None  # the model is still being loaded
        assert isinstance(executor.next_event(), SegmentDone)


def test_a_killed_worker_is_reported_and_replaced(
    tiny_plan: WorkerPlan, tiny_folder: Path, tmp_path: Path
) -> None:
    segment = tiny.first_segment(0, "beft", to_step=1)
    with start(tiny_plan, tiny_folder, tmp_path, 1) as executor:
        executor.submit(segment)
        assert isinstance(executor.next_event(), SegmentDone)
        (pid,) = executor.worker_pids()
        assert pid != os.getpid()
        executor.submit(segment)
        os.kill(pid, signal.SIGKILL)
        failed = executor.next_event()
        assert executor.next_event(0.0) is None
        executor.submit(segment)
        done = executor.next_event()
        (new_pid,) = executor.worker_pids()

    assert isinstance(failed, SegmentFailed)
    assert failed.segment == segment
    assert failed.kind is FailureKind.WORKER_DIED
    assert failed.message.startswith("the worker's process ended")
    assert isinstance(done, SegmentDone)
    assert new_pid != pid


@pytest.mark.slow
def test_workers_that_never_get_ready_end_the_search(
    tiny_plan: WorkerPlan, tiny_folder: Path, tmp_path: Path
) -> None:
    segment = tiny.first_segment(0, "beft", to_step=1)
    kinds = []
    with start(tiny_plan, tiny_folder, tmp_path, 1) as executor:
        for _ in range(2):
            executor.submit(segment)
            os.kill(executor.worker_pids()[0], signal.SIGKILL)
            event = executor.next_event()
            assert isinstance(event, SegmentFailed)
            kinds.append(event.kind)
        executor.submit(segment)
        os.kill(executor.worker_pids()[0], signal.SIGKILL)
        with pytest.raises(WorkerError, match="3 workers in a row died before they were ready"):
            executor.next_event()

    assert kinds == [FailureKind.WORKER_DIED] * 2


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "broken")
    plan = tiny.make_plan(folder)
    (folder / "model.safetensors").write_bytes(b"")
    with start(plan, folder, tmp_path, 1) as executor:
        executor.submit(tiny.first_segment())
        with pytest.raises(ModelError, match="cannot load the weights of broken"):
            executor.next_event()


def test_more_gpus_than_there_are_is_refused(
    tiny_plan: WorkerPlan, tiny_folder: Path, tmp_path: Path
) -> None:
    settings = tiny.make_settings(tiny_folder, tmp_path)
    with pytest.raises(WorkerError, match="with 40 GPUs each need 80 GPUs, Ray sees"):
        RayExecutor(settings, WorkersSettings(num=2, cpus=1, gpus=40), tiny_plan)


def test_more_cpus_than_the_cluster_has_is_refused(
    tiny_plan: WorkerPlan, tiny_folder: Path, tmp_path: Path
) -> None:
    settings = tiny.make_settings(tiny_folder, tmp_path)
    with pytest.raises(WorkerError, match="5 CPU cores each need 5 cores, the cluster has 4"):
        RayExecutor(settings, WorkersSettings(num=1, cpus=5), tiny_plan)


def test_what_was_joined_stays_up(tiny_plan: WorkerPlan, tiny_folder: Path, tmp_path: Path) -> None:
    start(tiny_plan, tiny_folder, tmp_path, 1).close()

    assert ray.is_initialized()


SCRIPT = """
import os, signal, sys
from pathlib import Path
from autopeft.workers.executors.ray import RayExecutor
from autopeft.workers.settings import WorkersSettings
from tests.workers import tiny

folder, checkpoints = map(Path, sys.argv[1:])
settings = tiny.make_settings(folder, checkpoints)
with RayExecutor(settings, WorkersSettings(num=1, cpus=1), tiny.make_plan(folder)) as executor:
    segment = tiny.first_segment(0, "beft", to_step=1)
    executor.submit(segment)
    os.kill(executor.worker_pids()[0], signal.SIGKILL)
    print(executor.next_event().kind)
    executor.submit(segment)
    print(executor.next_event().measurement.checkpoint)
print(sys.modules["ray"].is_initialized())
"""


def test_ray_of_our_own_is_silent_and_shut_down(
    tiny_folder: Path, tmp_path: Path, repository: Path
) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(tiny_folder), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=repository,
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
    )

    assert result.stderr == ""
    assert result.stdout.splitlines() == ["worker_died", "trial-0000-step-00001", "False"]
