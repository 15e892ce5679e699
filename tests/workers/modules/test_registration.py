from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftType, get_peft_config
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

from autopeft.search_spaces.method import METHODS, get_method
from autopeft.workers.injection import known_warnings
from autopeft.workers.modules import MethodTuner, register_all
from tests.workers import families
from tests.workers.modules.building import injected, module_of, run, shape_of

#: A family on which each method of these can be used.
OURS = {
    "serial-adapter": "bert",
    "parallel-adapter": "bert",
    "compacter": "bert",
    "shared-adapter": "bert",
    "ssf": "bert",
    "gated-lora": "llama",
    "mola": "llama",
    "layer-prefix": "llama",
    "conv-adapter": "vit",
}


def test_every_method_of_ours_is_known_to_peft_after_one_call() -> None:
    register_all()
    ours = [name for name in METHODS.names() if get_method(name).saved_as == "ours"]

    assert set(OURS) <= set(ours)
    for name in OURS:
        shape = shape_of(OURS[name])
        arguments = dict(get_method(name).peft_config(shape, module_of(name, shape)))
        tuner = PEFT_TYPE_TO_TUNER_MAPPING[PeftType[arguments["peft_type"]]]
        assert issubclass(tuner, MethodTuner)
        assert json.loads(json.dumps(arguments)) == arguments
        assert get_peft_config(arguments).peft_type == arguments["peft_type"]


@pytest.mark.slow
def test_saved_adapters_load_in_a_process_of_their_own(tmp_path: Path) -> None:
    names = [name for name in OURS if name != "conv-adapter"]
    expected = {}
    for name in names:
        family = OURS[name]
        model = injected(family, module_of(name, shape_of(family)))
        with known_warnings():
            model.save_pretrained(tmp_path / name, save_embedding_layers=False)
        families.build(family).save_pretrained(tmp_path / family)
        with torch.no_grad():
            expected[name] = run(model, family).tolist()
    code = f"""
import json, torch, transformers
from pathlib import Path
from peft import PeftModel
from autopeft.workers.modules import register_all
from tests.workers import families
register_all()
found = {{}}
for name, family in {[(name, OURS[name]) for name in names]!r}:
    auto = getattr(transformers, families.AUTO_CLASSES[families.TASK_OF[family]])
    base = auto.from_pretrained(Path({str(tmp_path)!r}) / family, attn_implementation="eager")
    model = PeftModel.from_pretrained(base, Path({str(tmp_path)!r}) / name).eval()
    with torch.no_grad():
        found[name] = model(**families.inputs(family)).logits.tolist()
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])

    for name in names:
        torch.testing.assert_close(
            torch.tensor(found[name]), torch.tensor(expected[name]), rtol=1e-5, atol=1e-6
        )
