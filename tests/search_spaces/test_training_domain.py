"""Training settings that a space searches: what may come up, with which methods, and by default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from autopeft.errors import InvalidSpaceError
from autopeft.records import ModelShape
from autopeft.search_spaces.composition import MethodSets
from autopeft.search_spaces.configuration import Configuration, Module, Training
from autopeft.search_spaces.method import METHODS as METHOD_CLASSES
from autopeft.search_spaces.method import Method
from autopeft.search_spaces.space import SearchSpace, check_space, load_space, lora_sweep_space
from autopeft.search_spaces.training_domain import JobTraining, Scalar, TrainingDomain
from tests.search_spaces.fixed_methods import METHODS
from tests.search_spaces.shapes import bert_shape

SHAPE = bert_shape()
CHECKPOINTING: dict[str, Any] = {"gradient_checkpointing": [False, True]}
PARTS: dict[str, Any] = {"batch_size": [2, 4], "gradient_accumulation": [1, 4]}


def why_not(values: Mapping[str, Scalar]) -> str | None:
    parts, size = values.get("gradient_accumulation", 1), values.get("batch_size", 8)
    assert isinstance(parts, int)
    assert isinstance(size, int)
    return f"{parts} parts of {size}" if parts > size else None


JOB = JobTraining(
    values={
        "batch_size": 4,
        "gradient_accumulation": 1,
        "gradient_checkpointing": False,
        "optimizer": "adamw",
    },
    why_not=why_not,
)


def space_with(
    methods: Mapping[str, Any] | list[str] = METHODS,
    *,
    shape: Any = SHAPE,
    job: JobTraining = JOB,
    combine: str = "one",
    **training: Any,
) -> SearchSpace:
    spec = {"combine": combine, "methods": methods, "training": training}
    return load_space(spec, shape, training=job)


def possible() -> set[tuple[str, Training]]:
    """Return by brute force what the small space of the tests below holds."""
    found = set()
    for method, size, parts, checkpointing in product(METHODS, (2, 4), (1, 4), (False, True)):
        if parts <= size and not (method == "prefix" and checkpointing):
            training: Training = (
                ("batch_size", size),
                ("gradient_accumulation", parts),
                ("gradient_checkpointing", checkpointing),
            )
            found.add((method, training))
    return found


class TestSmallSpace:
    """Nine configurations: every way of making one yields these and no others."""

    @pytest.fixture(scope="class")
    @classmethod
    def space(cls) -> SearchSpace:
        return space_with(**CHECKPOINTING, **PARTS)

    def named(self, members: list[Configuration]) -> set[tuple[str, Training]]:
        return {(member.methods[0], member.training) for member in members}

    def test_counted_by_hand(self) -> None:
        assert len(possible()) == 9

    def test_samples(self, space: SearchSpace) -> None:
        members = space.sample(100, np.random.default_rng(0))
        assert len(members) == 9
        assert self.named(members) == possible()

    def test_sobol_points(self, space: SearchSpace) -> None:
        assert self.named(space.sobol(256, seed=1)) == possible()

    def test_any_vector(self, space: SearchSpace) -> None:
        corners = [list(map(float, bits)) for bits in product((0, 1), repeat=5)]
        assert space.num_dimensions == 5
        assert self.named(space.decode(corners)) == possible()

    def test_neighbours_reach_all_from_any(self, space: SearchSpace) -> None:
        generator = np.random.default_rng(0)
        for start in space.sample(100, generator):
            here, seen = start, {start}
            for _ in range(400):
                here = space.mutate(here, generator)
                seen.add(here)
            assert self.named(list(seen)) == possible()

    def test_every_other_combination_is_explained(self, space: SearchSpace) -> None:
        (lora, prefix) = (p.configuration for p in sorted(space.portfolio(), key=_method))
        for module, training in product((lora, prefix), product((2, 4), (1, 4), (False, True))):
            names = ("batch_size", "gradient_accumulation", "gradient_checkpointing")
            configuration = replace(module, training=tuple(zip(names, training, strict=True)))
            is_possible = (module.methods[0], configuration.training) in possible()
            assert (configuration in space) == is_possible
            assert bool(space.explain(configuration)) != is_possible

    def test_encoding_comes_back(self, space: SearchSpace) -> None:
        members = space.sample(100, np.random.default_rng(0))
        X = space.encode(members)
        assert space.decode(X) == members
        assert space.dimension_names[-3:] == (
            "training.batch_size",
            "training.gradient_accumulation",
            "training.gradient_checkpointing",
        )
        assert X[:, -1].tolist() == [
            float(dict(member.training)["gradient_checkpointing"]) for member in members
        ]


def _method(proposal: Any) -> str:
    return str(proposal.configuration.methods[0])


class TestExplained:
    def members(self, **training: Any) -> list[str]:
        space = space_with(**CHECKPOINTING, **PARTS)
        prefix = next(
            p.configuration for p in space.portfolio() if p.configuration.methods == ("prefix",)
        )
        changed = tuple({**dict(prefix.training), **training}.items())
        return space.explain(replace(prefix, training=changed))

    @pytest.mark.parametrize(
        ("training", "reason"),
        [
            ({"gradient_checkpointing": True}, "the methods cannot be trained with batch_size 4, "),
            ({"batch_size": 2, "gradient_accumulation": 4}, "cannot go together"),
            ({"batch_size": 3}, "training: batch_size is 3, expected 2, 4"),
            ({"gradient_checkpointing": 0}, "gradient_checkpointing is 0, expected off, on"),
            ({"precision": "bfloat16"}, "training: precision is not searched by the space"),
        ],
    )
    def test_reason(self, training: dict[str, Any], reason: str) -> None:
        assert any(reason in told for told in self.members(**training))

    def test_a_setting_is_missing(self) -> None:
        space = space_with(**CHECKPOINTING)
        bare = replace(space.portfolio()[0].configuration, training=())
        assert space.explain(bare) == ["training: needs a value for gradient_checkpointing"]

    def test_a_space_that_searches_none_holds_none(self) -> None:
        space = load_space({"methods": METHODS}, SHAPE)
        odd = replace(space.portfolio()[0].configuration, training=(("batch_size", 4),))
        assert space.explain(odd) == ["training: batch_size is not searched by the space"]


class TestDefaults:
    def test_the_portfolio_has_the_jobs_own(self) -> None:
        space = space_with(**CHECKPOINTING, **PARTS)
        own = (
            ("batch_size", 4),
            ("gradient_accumulation", 1),
            ("gradient_checkpointing", False),
        )
        assert {p.configuration.training for p in space.portfolio()} == {own}
        assert space.training.default == own

    def test_the_nearest_where_it_is_not_listed(self) -> None:
        space = space_with(batch_size=[16, 2, 64])
        assert space.training.default == (("batch_size", 2),)

    def test_a_method_that_bears_no_default_gets_the_nearest(self) -> None:
        job = replace(JOB, values={**JOB.values, "gradient_checkpointing": True})
        shape = replace(SHAPE, uses_gradient_checkpointing=True)
        space = space_with(shape=shape, job=job, **CHECKPOINTING)
        uses = {
            p.configuration.methods[0]: dict(p.configuration.training)["gradient_checkpointing"]
            for p in space.portfolio()
        }
        assert uses == {"lora": True, "prefix": False}

    def test_the_baseline_trains_with_the_defaults(self) -> None:
        sweep = lora_sweep_space(SHAPE, space_with(**PARTS).training.default)
        assert {member.training for member in sweep.sample(20, np.random.default_rng(0))} == {
            (("batch_size", 4), ("gradient_accumulation", 1))
        }

    def test_the_nearest_of_a_configuration_from_elsewhere(self) -> None:
        space = space_with(**PARTS)
        bare = replace(space.portfolio()[0].configuration, training=(("batch_size", 3),))
        near = space.nearest(bare)
        assert near is not None
        assert near.training == (("batch_size", 4), ("gradient_accumulation", 1))


class TestMethodsAndSettings:
    def test_a_method_is_left_out_where_it_bears_none(self) -> None:
        spec = {"preset": "default", "training": {"gradient_checkpointing": True}}
        space = load_space(spec, SHAPE, training=JOB)
        assert "prefix" not in space.methods
        assert any("prefix left out: keys and values" in note for note in space.notes)

    def test_a_named_one_is_a_problem(self) -> None:
        with pytest.raises(InvalidSpaceError, match="prefix left out: keys and values"):
            space_with(gradient_checkpointing=True)

    def test_the_optimiser_of_lora_comes_with_lora_alone(self) -> None:
        space = space_with(["lora", "ia3", "lokr"], optimizer=["adamw", "lora-fa"], combine="any")
        members = space.sample(300, np.random.default_rng(0))
        with_it = {m.methods for m in members if dict(m.training)["optimizer"] == "lora-fa"}
        assert with_it == {("lora",)}
        assert {m.methods for m in members if dict(m.training)["optimizer"] == "adamw"} > with_it

    def test_all_methods_together_need_common_settings(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def only(uses: bool) -> Callable[[Method, ModelShape], str | None]:
            return lambda self, shape: (
                None if shape.uses_gradient_checkpointing is uses else "not so"
            )

        monkeypatch.setattr(METHOD_CLASSES.get("lora"), "unavailable", only(True))
        monkeypatch.setattr(METHOD_CLASSES.get("ia3"), "unavailable", only(False))
        spec = {"methods": ["lora", "ia3"], "training": CHECKPOINTING}
        apart = load_space({**spec, "combine": "any"}, SHAPE, training=JOB)
        members = apart.sample(100, np.random.default_rng(0))
        assert {(m.methods, m.training[0][1]) for m in members} == {
            (("lora",), True),
            (("ia3",), False),
        }
        with pytest.raises(InvalidSpaceError, match="no values of the training settings go with"):
            load_space({**spec, "combine": "all"}, SHAPE, training=JOB)

    def test_sets_share_a_setting(self) -> None:
        """Each pair has a setting in common, all three have none."""
        none: dict[str, frozenset[str]] = dict.fromkeys("abc", frozenset())
        sets = MethodSets("abc", none, 3, {"a": 0b011, "b": 0b110, "c": 0b101})
        assert sets.all_sets(99) == [*[(n,) for n in "abc"], ("a", "b"), ("a", "c"), ("b", "c")]
        assert ("a", "b", "c") not in sets
        assert all(sets.draw(u) in sets for u in np.random.default_rng(0).random((99, 4)).tolist())
        assert sets.nearest("abc") == ("a", "b")
        assert sets.decode([1.0, 0.8, 0.9]) == ("a", "c")

    def test_published_adapters_keep_to_it(self) -> None:
        config = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5, "prefix_projection": False}
        spec = {"include": [{"name": "odd", "config": config}], "methods": ["lora"],
                "training": CHECKPOINTING}  # fmt: skip
        shape = replace(SHAPE, uses_gradient_checkpointing=True)
        space = load_space(spec, shape, training=JOB)
        odd = [m for m in space.sample(200, np.random.default_rng(0)) if m.methods == ("prefix",)]
        assert {member.training for member in odd} == {(("gradient_checkpointing", False),)}
        with pytest.raises(InvalidSpaceError, match="include: odd: no method here"):
            load_space({**spec, "training": {"gradient_checkpointing": True}}, shape, training=JOB)


class TestWritten:
    @pytest.mark.parametrize(
        ("given", "problem"),
        [
            (None, "training: expected settings (batch_size, gradient_accumulation, "),
            ([], "training: expected settings"),
            ("batch_size", "training: expected settings"),
            ({"batchsize": [2]}, "training.batchsize: cannot be searched; did you mean 'batch_s"),
            ({"schedule": ["cosine"]}, "training.schedule: cannot be searched"),
            ({"batch_size": []}, "training.batch_size: expected at least one value, got none"),
            ({"batch_size": [2, 2]}, "training.batch_size: 2 is listed twice"),
            ({"batch_size": {"low": 2}}, "training.batch_size: expected a list of values"),
            ({"batch_size": [[2]]}, "training.batch_size: expected a list of values"),
            (
                {"batch_size": [2, 3], "gradient_accumulation": [1, 4]},
                "training.gradient_accumulation: 4: 4 parts of 2",
            ),
            (
                {
                    "gradient_accumulation": [9, 1],
                    "gradient_checkpointing": [False],
                    "batch_size": 4,
                },
                "training.gradient_accumulation: 9: 9 parts of 4",
            ),
            (
                {"gradient_accumulation": [9], "gradient_checkpointing": [False, True]},
                "training.gradient_accumulation: 9: 9 parts of 8",
            ),
            (
                {"batch_size": list(range(9, 109)), "gradient_accumulation": list(range(1, 42))},
                "training: 4100 combinations, expected at most 4096",
            ),
        ],
    )
    def test_problems(self, given: Any, problem: str) -> None:
        (found,) = check_space({"methods": ["lora"], "training": given}, training=JOB)
        assert problem in found
        with pytest.raises(InvalidSpaceError):
            load_space({"methods": ["lora"], "training": given}, SHAPE, training=JOB)

    def test_what_a_job_does_not_have_cannot_be_searched(self) -> None:
        (found,) = check_space(
            {"methods": ["lora"], "training": {"precision": "bfloat16"}}, training=JOB
        )
        assert "training.precision: cannot be searched" in found

    def test_in_a_file(self, tmp_path: Path) -> None:
        spec = {"preset": "lora", "training": {"batch_size": [4, 2]}}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(spec))
        assert check_space("mine.yaml", base=tmp_path, training=JOB) == []
        space = load_space("mine.yaml", SHAPE, base=tmp_path, training=JOB)
        assert space.training.domains["batch_size"].values == (2, 4)
        assert space.describe()[-2:] == ["training: of every method", "  batch_size: 2, 4"]


class TestDomain:
    def test_1_is_not_true(self) -> None:
        domain = TrainingDomain({"gradient_checkpointing": [False, True]})
        assert domain.explain((("gradient_checkpointing", 1),)) != []
        assert domain.explain((("gradient_checkpointing", True),)) == []

    def test_ordered_settings_lie_on_a_log_scale(self) -> None:
        domain = TrainingDomain({"batch_size": [32, 8, 16], "optimizer": ["adamw", "sgd"]})
        codes = [domain.encode(training) for training in domain.allowed[::2]]
        assert np.array(codes)[:, 0] == pytest.approx([0.0, 0.5, 1.0])

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_sobol_points_come_by_every_combination_in_turn(self, seed: int) -> None:
        searched: dict[str, Any] = {
            "precision": ["float32", "bfloat16"],
            "optimizer": ["adamw", "sgd"],
        }
        job = JobTraining(values={**JOB.values, "precision": "float32"})
        space = space_with({"lora": METHODS["lora"]}, job=job, **CHECKPOINTING, **searched)
        points = space.sobol(16, seed=seed)
        assert len({point.training for point in points[:8]}) == 8
        assert len({point.training for point in points[8:]}) == 8

    def test_each_that_fits_is_as_likely(self) -> None:
        domain = TrainingDomain({"batch_size": [2, 4, 8]})
        drawn = [domain.draw((u,), 0b101)[0][1] for u in (0.0, 0.49, 0.51, 0.999)]
        assert drawn == [2, 2, 8, 8]

    def test_fixed(self) -> None:
        domain = TrainingDomain(PARTS, JOB).fixed()
        assert domain.allowed == ((("batch_size", 4), ("gradient_accumulation", 1)),)
        assert domain.columns == ()


class TestConfiguration:
    MODULE = Module.of("prefix", [0], prefix_length=4)

    def of(self, *training: tuple[str, Scalar]) -> Configuration:
        return Configuration(modules=(self.MODULE,), learning_rate=0.01, training=training)

    def test_is_canonical(self) -> None:
        a, b = ("precision", "bfloat16"), ("batch_size", 16)
        assert self.of(a, b) == self.of(b, a)
        assert self.of(a, b).key == self.of(b, a).key
        assert self.of(a, b).key != self.of(b).key

    def test_one_without_settings_is_written_as_ever(self) -> None:
        assert "training" not in self.of().to_json()
        # Recorded before configurations had training settings.
        assert self.of().key == "5009feccb0fa99b9"

    def test_survives_json(self) -> None:
        member = self.of(("batch_size", 16), ("gradient_checkpointing", True))
        assert member.to_json()["training"] == {"batch_size": 16, "gradient_checkpointing": True}
        assert Configuration.from_json(member.to_json()) == member

    @pytest.mark.parametrize("training", [{"batch_size": [1]}, {"batch_size": None}, ["a"], 3])
    def test_refuses_what_is_none(self, training: Any) -> None:
        data = {**self.of().to_json(), "training": training}
        with pytest.raises(InvalidSpaceError, match="not a configuration"):
            Configuration.from_json(data)

    def test_refuses_a_setting_twice(self) -> None:
        with pytest.raises(
            InvalidSpaceError, match="sets each setting once, got batch_size, batch"
        ):
            self.of(("batch_size", 16), ("batch_size", 8))

    def test_says_what_is_on(self) -> None:
        member = self.of(("batch_size", 16), ("gradient_checkpointing", False))
        assert str(member) == "prefix[0] prefix_length=4 lr=0.01 batch_size=16"
        member = self.of(("batch_size", 16), ("gradient_checkpointing", True))
        assert str(member).endswith("batch_size=16 gradient_checkpointing=True")
