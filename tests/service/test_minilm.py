"""The real small model: what is exported is what was measured, in a process without AutoPEFT."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import autopeft
from autopeft.service.job_spec import JobSpec
from autopeft.workers.loading import load_splits
from autopeft.workers.models import resolve_model
from autopeft.workers.settings import ModelSettings

METHODS = ("lora", "ia3", "beft", "prefix")

#: Stands before the code of the README: nothing of ours may be imported.
BLOCK = "import sys\nsys.modules['autopeft'] = None\n"
#: Stands after it: predict every validation row as the README does its example, and count.
SCORE = """
import json
rows = [json.loads(line) for line in open(ROWS)]
names = {name: number for number, name in enumerate(NAMES)}
correct = 0
for row in rows:
    batch = tokenizer([row["text"]], padding=True, truncation=True, max_length=MAX_TOKENS,
                      return_tensors="pt")
    with torch.inference_mode():
        correct += int(model(**batch).logits.argmax(-1)) == names[str(row["label"])]
print(json.dumps({"correct": correct, "rows": len(rows)}))
"""


def write_hub_cache(folder: Path) -> None:
    """Lay out the installed model as if it had been downloaded from the hub."""
    source = resolve_model(ModelSettings(name="builtin:minilm"), Path())
    revision = "0" * 40
    model = folder / "hub" / f"models--{source.public_name.replace('/', '--')}"
    snapshot = model / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(revision)
    for path in Path(source.location).iterdir():
        if path.is_file():
            (snapshot / path.name).symlink_to(path)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_readme_of_an_export_reproduces_the_recorded_accuracy(
    tmp_path: Path, data_folder: Path, method: str
) -> None:
    job = autopeft.search(
        {
            "model": "builtin:minilm",
            "data": {
                "train": str(data_folder / "sst2" / "train.jsonl"),
                "validation": str(data_folder / "sst2" / "validation.jsonl"),
                "test": str(data_folder / "sst2" / "test.jsonl"),
                "limit": {"train": 400, "validation": 200},
            },
            "space": {"combine": "one", "methods": {method: {}}},
            "training": {"batch_size": 16, "max_tokens": 48, "steps": 16},
            "budget": {"trials": 1},
            "stopper": "none",
            "workers": {"executor": "inline"},
            "output": str(tmp_path / "run"),
        }
    )
    export = tmp_path / "out"
    report = job.export(export, pick=0)
    spec = JobSpec.from_json(job.log.spec or {})
    rows = load_splits(spec.data, base=spec.base, seed=spec.seed, task=spec.task).splits
    validation = rows["validation"]
    lines = [
        json.dumps({"text": text, "label": label})
        for text, label in zip(validation.text, validation.label, strict=True)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    code = re.findall(r"```python\n(.*?)```", (export / "README.md").read_text(), re.DOTALL)[0]
    score = (
        SCORE.replace("ROWS", repr(str(tmp_path / "rows.jsonl")))
        .replace("NAMES", "['0', '1']")
        .replace("MAX_TOKENS", "48")
    )
    write_hub_cache(tmp_path / "cache")

    run = subprocess.run(
        [sys.executable, "-c", BLOCK + code + score],
        cwd=export,
        env={**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    counted = json.loads(run.stdout.splitlines()[-1])
    assert counted == {"correct": round(report.metric_value * 200), "rows": 200}
    assert report.num_prediction_mismatches == 0
