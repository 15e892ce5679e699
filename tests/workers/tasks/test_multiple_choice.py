from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autopeft.errors import DataError
from autopeft.workers.data import collate
from autopeft.workers.data.table import Table
from autopeft.workers.dataset import EncodedData, EncodedSplit, Rows
from autopeft.workers.settings import Columns
from autopeft.workers.tasks.base import EncodingSettings, LabelEncoding, Task
from autopeft.workers.tasks.multiple_choice import ABSENT, MultipleChoice
from tests.workers import families
from tests.workers.tasks.contract import TaskContract
from tests.workers.tasks.parts import splits_of, word_pieces

TASK = MultipleChoice()
ROWS = Rows(
    columns={
        "text": ["Ada saw York.", "No one spoke.", "Big Paris."],
        "choices": [["yes", "no", "the sun"], ["rain", "sun"], ["one", "new", "big"]],
    },
    label=[2, 0, 1],
)


def encode(rows: Rows = ROWS) -> EncodedSplit:
    labels = np.array(rows.label, np.int64)
    return TASK.encode(rows, labels, word_pieces(), EncodingSettings(max_tokens=16))


def batch_of(split: EncodedSplit, *indices: int) -> dict[str, torch.Tensor]:
    arrays = collate(split, np.array(indices or range(len(split))), 0)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def made(label: Any = 0, **columns: Any) -> Rows:
    """Return the row that a table of one row makes."""
    table = Table(
        columns={name: [value] for name, value in {**columns, "label": label}.items()},
        origin="train.jsonl",
    )
    chosen = TASK.choose_columns(table, Columns())
    return TASK.make_rows(table, chosen, table.columns[chosen.label or ""])


class TestMultipleChoice(TaskContract):
    @pytest.fixture
    def task(self) -> Task:
        return TASK

    @pytest.fixture
    def splits(self) -> Any:
        return splits_of(ROWS, ROWS, ROWS)

    @pytest.fixture
    def perfect(self, task: Task, splits: Any) -> NDArray[np.float32]:
        rows = [[0, 0, 40], [40, 0, ABSENT], [0, 40, 0]]
        return np.array(rows, dtype=np.float32)

    def test_chance_is_finite_and_below_the_ideal(
        self, task: Task, encoding: LabelEncoding
    ) -> None:
        """Guessing, by hand: one of three, one of two, one of three."""
        data = EncodedData(train=encode(), validation=encode(), pad_token_id=0)
        assert task.chance_score(encoding, "accuracy", data) == pytest.approx((2 / 3 + 1 / 2) / 3)
        expected = (2 * math.log(3) + math.log(2)) / 3
        assert task.chance_score(encoding, "loss", data) == pytest.approx(-expected)
        with pytest.raises(DataError, match="has no metric 'f1'"):
            task.chance_score(encoding, "f1", data)

    def test_the_training_loss_is_the_metric_loss_and_has_a_gradient(
        self, task: Task, encoding: LabelEncoding
    ) -> None:
        split = encode()
        batch = batch_of(split)
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(3, 3, generator=generator, requires_grad=True)
        loss = task.loss(SimpleNamespace(logits=logits), batch)
        kept = task.reduce(SimpleNamespace(logits=logits), batch)

        assert loss.item() == pytest.approx(
            task.predictions_to_metrics(kept, split.labels)["loss"], rel=1e-5
        )
        loss.backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        assert logits.grad[1, 2] == 0.0, "a choice that is not there"
        assert task.loss(SimpleNamespace(logits=logits.bfloat16()), batch).dtype == torch.float32


def test_each_choice_is_a_pair_with_the_text() -> None:
    split = encode()
    ids = [split.fields["input_ids"].example(i) for i in range(9)]
    texts = [" ".join(word_pieces().convert_ids_to_tokens(each)) for each in ids]

    assert split.num_sequences == 3
    assert len(split) == 3
    assert texts[2].endswith("[SEP] the sun [SEP]")
    assert texts[3:5] == [
        "[CLS] no one spoke [UNK] [SEP] rain [SEP]",
        "[CLS] no one spoke [UNK] [SEP] sun [SEP]",
    ]
    assert len(ids[5]) == 4, "next to nothing stands for a choice that is not there"


def test_a_batch_has_a_sequence_for_each_choice() -> None:
    batch = batch_of(encode(), 1, 0)

    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 3, 16)
    assert batch["is_choice"].tolist() == [[True, True, False], [True, True, True]]
    assert batch["labels"].tolist() == [0, 2]


def test_a_model_of_transformers_gives_a_logit_for_each_choice() -> None:
    split = encode()
    model = families.build("bert", "multiple-choice")
    with torch.inference_mode():
        together = batch_of(split)
        kept = TASK.reduce(TASK.forward(model, together), together)
        alone = batch_of(split, 1)
        single = TASK.reduce(TASK.forward(model, alone), alone)

    assert kept.shape == (3, 3)
    assert kept[1, 2] == ABSENT
    np.testing.assert_allclose(single[0], kept[1], atol=1e-5)


def test_a_choice_that_is_not_there_is_never_called() -> None:
    batch = batch_of(encode())
    logits = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 99.0], [0.0, 1.0, 0.0]])
    kept = TASK.reduce(SimpleNamespace(logits=logits), batch)
    assert TASK.predictions_to_metrics(kept, np.array(ROWS.label))["accuracy"] == 1.0


def test_rounding_is_measured_by_choices_that_are_there() -> None:
    outputs = np.array([[0.0, 1.0, ABSENT], [1.0, 0.0, 0.5]], dtype=np.float32)
    rebuilt = np.array([[1.0, 0.0, ABSENT], [1.0, 0.0, 0.5]], dtype=np.float32)
    assert TASK.mismatches(rebuilt, outputs, 1e-4).tolist() == [True, False]
    assert not TASK.mismatches(outputs, outputs, 1e-4).any()


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        ("cause", "The cause. What was the cause?"),
        ("Effect ", "The cause. What happened as a result?"),
        ("Why?", "The cause. Why?"),
    ],
)
def test_what_is_asked_follows_the_text(question: str, asked: str) -> None:
    from autopeft.workers.data.choices import stems

    rows = made(text="The cause.", question=question, choices=["a", "b"])
    assert stems(rows) == [asked]


@pytest.mark.parametrize(
    ("label", "choices", "place"),
    [
        (1, ["a", "b"], 1),
        (1.0, ["a", "b"], 1),
        ("B", ["a", "b"], 1),
        ("b", ["a", "b"], 1),
        ("1", ["a", "b"], 1),
        ("C", {"text": ["a", "b", "c"], "label": ["A", "B", "C"]}, 2),
        ("1", {"text": ["a", "b"], "label": ["1", "2"]}, 0),
    ],
)
def test_answers_are_places_letters_or_the_choices_labels(
    label: Any, choices: Any, place: int
) -> None:
    assert made(label, text="t", choices=choices).label == [place]


@pytest.mark.parametrize("label", [2, -1, "C", "x y", None, 0.5])
def test_an_answer_that_is_no_choice_is_refused(label: Any) -> None:
    with pytest.raises(DataError, match=r"row 0: the answer .* expected a place from 0 to 1"):
        made(label, text="t", choices=["a", "b"])


@pytest.mark.parametrize("choices", [["a"], "a, b", {"label": ["A"]}, None])
def test_fewer_than_two_choices_are_refused(choices: Any) -> None:
    with pytest.raises(DataError, match="expected a list of two texts or more"):
        made(text="t", choices=choices)


def test_an_empty_choice_is_refused() -> None:
    with pytest.raises(DataError, match="choices holds ''; expected text"):
        made(text="t", choices=["a", ""])


def test_choices_may_stand_in_columns_of_their_own() -> None:
    rows = made(1, premise="p", question="cause", choice1="a", choice2="b")
    assert rows.columns == {"text": ["p"], "question": ["cause"], "choices": [["a", "b"]]}
    swag = made(0, sent1="s", sent2="t", ending1="b", ending0="a")
    assert swag.columns == {"text": ["s"], "question": ["t"], "choices": [["a", "b"]]}


def test_rows_share_a_key_where_text_and_choices_are_the_same() -> None:
    assert len(set(TASK.keys(ROWS))) == 3
    assert TASK.keys(ROWS.take([0])) == TASK.keys(ROWS)[:1]
