"""Published adapters in a space."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autopeft.errors import InvalidSpaceError
from autopeft.search_spaces.configuration import Configuration
from autopeft.search_spaces.included import read_included
from autopeft.search_spaces.space import check_space, load_space
from autopeft.search_spaces.space_files import self_contained
from tests.search_spaces.shapes import llama_shape

SHAPE = replace(llama_shape(), task="causal-lm", head_paths=(), num_head_parameters=0)
#: As PEFT writes it, shortened; a rank that no space of ours offers.
LORA: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "somebody/tiny-llama",
    "r": 12,
    "lora_alpha": 24,
    "lora_dropout": 0.05,
    "bias": "none",
    "target_modules": ["q_proj", "v_proj"],
    "use_dora": False,
    "use_rslora": False,
}


def write(folder: Path, **changed: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**LORA, **changed}), encoding="utf-8")
    return path


@pytest.fixture
def odd(tmp_path: Path) -> dict[str, Any]:
    """Return a space with an adapter that its dimensions do not reach."""
    write(tmp_path / "odd")
    return {"include": [str(tmp_path / "odd")], "methods": {"lora": {"placement": "all"}}}


class TestAnAdapterOfItsOwn:
    def test_is_a_member_and_tried_first(self, odd: dict[str, Any]) -> None:
        space = load_space(odd, SHAPE)
        assert space.methods == ("included:odd", "lora")
        (proposal,) = (p for p in space.portfolio() if p.origin == "included")
        (module,) = proposal.configuration.modules
        assert (module.method, module["rank"], module["sites"]) == ("lora", 12, ("q", "v"))
        assert module.layers == (0, 1, 2)
        assert proposal.configuration in space
        assert space.num_adapter_parameters(proposal.configuration) == 3 * 12 * (32 + 32 + 32 + 16)

    def test_only_its_learning_rate_varies(self, odd: dict[str, Any]) -> None:
        space = load_space({**odd, "methods": None}, SHAPE)
        members = space.sample(50, np.random.default_rng(0))
        assert len({member.modules for member in members}) == 1
        assert len({member.learning_rate for member in members}) == 50
        assert space.dimension_names == ("learning_rate",)

    def test_comes_back_from_its_code(self, odd: dict[str, Any]) -> None:
        space = load_space({**odd, "combine": "any"}, SHAPE)
        generator = np.random.default_rng(0)
        members = space.sample(100, generator)
        members += [space.mutate(member, generator) for member in members]
        assert space.decode(space.encode(members)) == members
        assert all(member in space for member in members)
        taken = [m for m in members if m.modules[0]["rank"] == 12]
        assert len(taken) > 20
        assert len({member.modules for member in taken}) == 1
        again = [Configuration.from_json(member.to_json()) for member in taken]
        assert again == taken

    def test_another_rank_is_no_member(self, odd: dict[str, Any], tmp_path: Path) -> None:
        space = load_space(odd, SHAPE)
        write(tmp_path / "other", r=13, lora_alpha=26)
        other = load_space({"include": str(tmp_path / "other")}, SHAPE).portfolio()[0]
        assert other.configuration not in space


class TestAnAdapterThatTheSpaceReaches:
    def test_is_tried_first_and_no_second_member(self, tmp_path: Path) -> None:
        path = write(tmp_path / "plain", r=8, lora_alpha=16)
        space = load_space({"include": [str(path)], "methods": ["lora"]}, SHAPE)
        assert space.methods == ("lora",)
        (proposal,) = (p for p in space.portfolio() if p.origin == "included")
        assert proposal.configuration.modules[0]["rank"] == 8
        assert proposal.configuration in space


class TestFiles:
    def test_paths_start_from_the_file_they_stand_in(self, tmp_path: Path) -> None:
        write(tmp_path / "spaces" / "published")
        text = "include: [published]\nmethods: [ia3]\n"
        (tmp_path / "spaces" / "mine.yaml").write_text(text, encoding="utf-8")
        assert check_space("spaces/mine.yaml", base=tmp_path) == []
        space = load_space("spaces/mine.yaml", SHAPE, base=tmp_path)
        assert "included:published" in space.methods

    def test_content_is_taken_in(self, odd: dict[str, Any], tmp_path: Path) -> None:
        content = self_contained(odd)
        (tmp_path / "odd" / "adapter_config.json").unlink()
        assert json.loads(json.dumps(content)) == content
        assert "included:odd" in load_space(content, SHAPE).methods

    def test_two_of_a_name(self, tmp_path: Path) -> None:
        paths = [write(tmp_path / n / "adapter", r=r) for n, r in (("a", 12), ("b", 20))]
        space = load_space({"include": [str(path) for path in paths]}, SHAPE)
        assert space.methods == ("included:adapter", "included:adapter'")

    @pytest.mark.parametrize(
        ("content", "problem"),
        [("{", "cannot be read"), ("[]", "holds no peft_type"), ("{}", "holds no peft_type")],
    )
    def test_what_is_no_config(self, content: str, problem: str, tmp_path: Path) -> None:
        path = tmp_path / "adapter_config.json"
        path.write_text(content, encoding="utf-8")
        with pytest.raises(InvalidSpaceError, match=problem):
            read_included(str(path))

    def test_what_cannot_be_deployed(self, odd: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(InvalidSpaceError, match="odd: deploy: vllm takes a rank of 1, 8, 16"):
            load_space({**odd, "deploy": "vllm"}, SHAPE)
        write(tmp_path / "odd", r=16)
        assert "included:odd" in load_space({**odd, "deploy": "vllm"}, SHAPE).methods

    @pytest.mark.parametrize(
        ("changed", "problem"),
        [
            ({"peft_type": "NOTHING"}, "include: odd: no method here is PEFT's NOTHING"),
            ({"target_modules": ["nowhere"]}, "include: odd: "),
        ],
    )
    def test_what_means_nothing_here(
        self, changed: dict[str, Any], problem: str, tmp_path: Path
    ) -> None:
        write(tmp_path / "odd", **changed)
        with pytest.raises(InvalidSpaceError, match=problem):
            load_space({"include": str(tmp_path / "odd"), "methods": ["lora"]}, SHAPE)
