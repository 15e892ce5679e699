"""What every test shares: no network, few threads, quiet libraries, the folder of real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parent.parent

# Read by libraries when they are first imported, so it stands before any of them. Variables that
# a person has set win, except that the tests never go to the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
for _name, _value in {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    # The models of the tests are too small to gain from threads, and test processes share cores.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray will stop hiding GPUs from tasks that ask for none and warns of it: take the new way.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}.items():
    os.environ.setdefault(_name, _value)

# A slow machine is no failure; under CI a run finds the same examples every time.
settings.register_profile("local", deadline=None)
settings.register_profile(
    "pipeline",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("pipeline" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Return the folder of real data sets; skip where there is none.

    It is ``$AUTOPEFT_DATA``, or ``../shared/data`` beside the checkout.
    """
    folder = Path(os.environ.get("AUTOPEFT_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no folder of data sets at {folder}; name one in AUTOPEFT_DATA")
    return folder.resolve()
