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
from autopeft.workers.data.table import DataWarning, Table
from autopeft.workers.data.tags import NO_TAG, as_bio, is_prefixed, ordered_tags, spans
from autopeft.workers.dataset import EncodedSplit, Rows
from autopeft.workers.settings import Columns
from autopeft.workers.tasks.base import EncodingSettings, LabelEncoding, Task
from autopeft.workers.tasks.token_classification import TokenClassification
from tests.workers import families
from tests.workers.tasks.contract import TaskContract
from tests.workers.tasks.parts import splits_of, word_pieces

NAMES = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
OUT, B_LOC, I_LOC, B_PER, I_PER = range(5)
SETTINGS = EncodingSettings(max_tokens=32)
TASK = TokenClassification()


def rows_of(*rows: str) -> Rows:
    """Return rows of words and tags, written as ``word/tag word/tag``."""
    pairs = [[pair.split("/") for pair in row.split()] for row in rows]
    return Rows(
        columns={"tokens": [[word for word, _ in row] for row in pairs]},
        label=[[tag for _, tag in row] for row in pairs],
    )


TRAIN = rows_of("paris/B-LOC is/O big/O", "ada/B-PER lovelace/I-PER spoke/O", "no/O one/O")
VALIDATION = rows_of("ada/B-PER saw/O new/B-LOC york/I-LOC", "yes/O", "paris/B-LOC")


def table_of(**columns: list[Any]) -> Table:
    return Table(columns=columns, origin="train.jsonl")


def encode(rows: Rows, max_tokens: int = 32) -> EncodedSplit:
    numbers = {name: number for number, name in enumerate(NAMES)}
    width = max(len(row) for row in rows.label)
    labels = np.full((len(rows), width), NO_TAG, np.int16)
    for i, row in enumerate(rows.label):
        labels[i, : len(row)] = [numbers[tag] for tag in row]
    settings = EncodingSettings(max_tokens=max_tokens)
    return TASK.encode(rows, labels, word_pieces(), settings)


def batch_of(split: EncodedSplit) -> dict[str, torch.Tensor]:
    arrays = collate(split, np.arange(len(split)), 0)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def logits_calling(batch: dict[str, torch.Tensor], rows: list[list[int]]) -> Any:
    """Return outputs that call each word of each row by a tag; other tokens are called I-PER."""
    logits = torch.zeros(*batch["labels"].shape, len(NAMES))
    logits[..., I_PER] = 5.0
    for i, row in enumerate(rows):
        for word, tag in enumerate(row):
            place = (batch["words"][i] == word).nonzero()
            logits[i, place, :] = 0.0
            logits[i, place, tag] = 20.0
    return SimpleNamespace(logits=logits)


class TestTokenClassification(TaskContract):
    @pytest.fixture
    def task(self) -> Task:
        return TASK

    @pytest.fixture
    def splits(self) -> Any:
        return splits_of(TRAIN, VALIDATION, TRAIN)

    @pytest.fixture
    def perfect(self, task: Task, splits: Any) -> NDArray[np.float32]:
        kept = [[2, 2, 2, 4, 4, 4, 0], [0, 0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 0]]
        return np.array(kept, dtype=np.float32)

    def test_labels_are_encoded_row_by_row(self, splits: Any, encoding: LabelEncoding) -> None:
        assert encoding.id2label == NAMES
        assert encoding.labels["validation"].tolist() == [
            [B_PER, OUT, B_LOC, I_LOC],
            [OUT, NO_TAG, NO_TAG, NO_TAG],
            [B_LOC, NO_TAG, NO_TAG, NO_TAG],
        ]

    @pytest.mark.parametrize("constant", [0.0, 3.0, 1e30])
    def test_constant_outputs_yield_finite_metrics(
        self, task: Task, encoding: LabelEncoding, perfect: NDArray[np.float32], constant: float
    ) -> None:
        outputs = np.full_like(perfect, constant)
        metrics = task.predictions_to_metrics(outputs, encoding.labels["validation"])
        assert all(math.isfinite(metric) for metric in metrics.values())

    def test_the_training_loss_is_the_metric_loss_and_has_a_gradient(
        self, task: Task, encoding: LabelEncoding
    ) -> None:
        split = encode(VALIDATION)
        batch = batch_of(split)
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(*batch["labels"].shape, 5, generator=generator, requires_grad=True)
        loss = task.loss(SimpleNamespace(logits=logits), batch)
        kept = task.reduce(SimpleNamespace(logits=logits), batch)
        metrics = task.predictions_to_metrics(kept, split.labels)

        assert loss.shape == ()
        assert loss.item() == pytest.approx(metrics["loss"], rel=1e-5)
        assert task.num_targets(batch) == 6
        loss.backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        has_gradient = logits.grad.abs().sum(dim=-1) > 0
        assert torch.equal(has_gradient, batch["labels"] != NO_TAG)


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ([OUT, B_PER, I_PER, OUT], {(1, 3, 1)}),
        ([B_PER, B_PER], {(0, 1, 1), (1, 2, 1)}),
        ([I_PER, I_PER, OUT], {(0, 2, 1)}),  # stray: conlleval begins an entity there
        ([B_LOC, I_PER], {(0, 1, 0), (1, 2, 1)}),
        ([B_LOC, I_PER, I_PER, I_LOC], {(0, 1, 0), (1, 3, 1), (3, 4, 0)}),
        ([OUT, OUT], set()),
        ([], set()),
        ([NO_TAG, I_LOC, NO_TAG], {(1, 2, 0)}),
        ([B_LOC, I_LOC, B_LOC, I_LOC], {(0, 2, 0), (2, 4, 0)}),
    ],
)
def test_entities_are_those_of_conlleval(tags: list[int], found: set[Any]) -> None:
    assert spans(tags, is_bio=True) == found


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ([1, 1, 0, 1], {(0, 2, 1), (3, 4, 1)}),
        ([1, 2, 2], {(0, 1, 1), (1, 3, 2)}),
        ([0, 0], set()),
        ([3], {(0, 1, 3)}),
    ],
)
def test_without_prefixes_runs_are_entities(tags: list[int], found: set[Any]) -> None:
    assert spans(tags, is_bio=False) == found


def test_tags_are_numbered_in_one_order_whatever_was_seen() -> None:
    assert ordered_tags({"I-PER", "B-LOC"}) == NAMES
    assert ordered_tags({"VERB", "O", "NOUN"}) == ("O", "NOUN", "VERB")
    assert ordered_tags({7, 3}) == (3, 7)
    assert [as_bio(tag) for tag in ("S-x", "U-x", "E-x", "L-x", "O", "B-E-")] == [
        *("B-x", "B-x", "I-x", "I-x", "O", "B-E-")
    ]
    assert not is_prefixed({"O", "NOUN"})
    assert not is_prefixed({"B-"})


@pytest.mark.parametrize(
    ("called", "f1", "accuracy"),
    [
        ([[B_PER, OUT, B_LOC, I_LOC], [OUT], [B_LOC]], 1.0, 1.0),
        ([[B_PER, OUT, B_LOC, OUT], [OUT], [B_LOC]], 2 * 2 / 6, 5 / 6),  # an end is wrong
        ([[I_PER, OUT, I_LOC, I_LOC], [OUT], [I_LOC]], 1.0, 3 / 6),  # stray beginnings
        ([[OUT, OUT, OUT, OUT], [OUT], [OUT]], 0.0, 2 / 6),
        ([[B_LOC, OUT, B_LOC, I_LOC], [B_PER], [B_LOC]], 2 * 2 / 7, 4 / 6),
    ],
)
def test_scores_of_known_calls(called: list[list[int]], f1: float, accuracy: float) -> None:
    """Hand counts; precision and recall as in conlleval, over all rows together."""
    split = encode(VALIDATION)
    batch = batch_of(split)
    kept = TASK.reduce(logits_calling(batch, called), batch)
    metrics = TASK.predictions_to_metrics(kept, split.labels)

    assert metrics["f1"] == pytest.approx(f1)
    assert metrics["accuracy"] == pytest.approx(accuracy)


def test_scores_are_those_of_seqeval() -> None:
    seqeval = pytest.importorskip("seqeval.metrics")
    generator = np.random.default_rng(0)
    there, called = generator.integers(0, 5, (2, 40, 12))
    named = [[[NAMES[tag] for tag in row] for row in rows] for rows in (there, called)]
    found = [[spans(row, is_bio=True) for row in rows] for rows in (there, called)]
    right = sum(len(a & b) for a, b in zip(*found, strict=True))
    total = sum(len(row) for rows in found for row in rows)
    assert 2 * right / total == pytest.approx(seqeval.f1_score(*named))


def test_the_first_piece_of_a_word_carries_its_tag() -> None:
    split = encode(rows_of("lovelace/B-PER saw/O"))
    tokens = word_pieces().convert_ids_to_tokens(split.fields["input_ids"].example(0))

    assert tokens == ["[CLS]", "love", "##lace", "saw", "[SEP]"]
    assert split.fields["labels"].example(0).tolist() == [NO_TAG, B_PER, NO_TAG, OUT, NO_TAG]
    assert split.fields["words"].example(0).tolist() == [-1, 0, -1, 1, -1]


def test_entities_that_are_cut_away_are_missed() -> None:
    """Of six words three are left, and the entity that reaches over the cut is none of them."""
    rows = rows_of("yes/O ada/B-PER new/B-LOC york/I-LOC saw/O paris/B-LOC")
    split = encode(rows, max_tokens=5)
    batch = batch_of(split)
    kept = TASK.reduce(logits_calling(batch, [[OUT, B_PER, B_LOC, I_LOC, OUT, B_LOC]]), batch)

    assert kept[0, :6].tolist() == [1, 2, 3, 3, 6, 3]


def test_a_word_without_a_token_is_called_nothing() -> None:
    split = encode(rows_of("paris/B-LOC \u200b/O yes/O"))
    assert split.fields["words"].example(0).tolist() == [-1, 0, 2, -1]
    batch = batch_of(split)
    kept = TASK.reduce(logits_calling(batch, [[B_LOC, OUT, OUT]]), batch)
    assert kept[0, :6].tolist() == [1, 1, 1, 2, 3, 2]


def test_the_model_sees_none_of_what_scoring_needs() -> None:
    batch = batch_of(encode(VALIDATION))
    seen: dict[str, Any] = {}
    TASK.forward(lambda **inputs: seen.update(inputs), batch)
    assert set(seen) == {"input_ids", "token_type_ids", "attention_mask"}


def test_a_model_of_transformers_gives_a_logit_for_each_tag() -> None:
    split = encode(rows_of("new/B-LOC york/I-LOC is/O big/O", "yes/O", "paris/B-LOC"))
    model = families.build("bert", "token-classification")
    batch = batch_of(split)
    with torch.inference_mode():
        outputs = TASK.forward(model, batch)
        kept = TASK.reduce(outputs, batch)
        reference = model(
            **{n: batch[n] for n in ("input_ids", "token_type_ids", "attention_mask")}
        )

    assert outputs.logits.shape == (*batch["labels"].shape, families.NUM_CLASSES)
    assert torch.equal(outputs.logits, reference.logits)
    assert kept.shape == (3, 7)


def test_logits_that_are_not_finite_are_noticed() -> None:
    split = encode(VALIDATION)
    batch = batch_of(split)
    logits = torch.zeros(*batch["labels"].shape, 5)
    logits[1, 1] = math.nan
    assert np.isnan(TASK.reduce(SimpleNamespace(logits=logits), batch)).any()


def test_chance_calls_every_word_by_the_most_frequent_tag() -> None:
    encoding = TASK.encode_labels(splits_of(TRAIN, VALIDATION, TRAIN))
    counts = np.array([5, 1, 0, 1, 1]) + 1.0
    losses = -np.log(counts / counts.sum())
    expected = losses[[B_PER, OUT, B_LOC, I_LOC, OUT, B_LOC]].mean()

    assert TASK.chance_score(encoding, "f1") == 0.0
    assert TASK.chance_score(encoding, "accuracy") == pytest.approx(2 / 6)
    assert TASK.chance_score(encoding, "loss") == pytest.approx(-expected)


def test_numbers_get_their_names_and_keep_those_not_seen() -> None:
    names = ("O", "B-x", "I-x", "B-y")
    table = Table(
        columns={"tokens": [["a", "b"]], "tags": [[0, 1]]},
        origin="train.jsonl",
        label_names={"tags": names},
    )
    columns = TASK.choose_columns(table, Columns())
    rows = TASK.make_rows(table, columns, table.columns["tags"])
    encoding = TASK.encode_labels(splits_of(rows, rows, rows, label_names=names))

    assert rows.label == [["O", "B-x"]]
    assert encoding.id2label == ("O", "B-x", "I-x", "B-y", "I-y")


def test_numbers_without_names_mark_runs() -> None:
    rows = Rows(columns={"tokens": [["a", "b", "c"]]}, label=[[0, 2, 2]])
    encoding = TASK.encode_labels(splits_of(rows, rows, rows))
    split = TASK.encode(rows, encoding.labels["train"], word_pieces(), SETTINGS)

    assert encoding.id2label == ("0", "2")
    assert not split.fields["is_bio"].values.any()
    batch = batch_of(split)
    logits = torch.nn.functional.one_hot(batch["labels"].clamp(min=0), 2) * 9.0
    assert TASK.reduce(SimpleNamespace(logits=logits), batch)[0, :3].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"tokens": ["a b"], "tags": [["O", "O"]]}, "holds 'a b'; expected a list of words"),
        ({"tokens": [["a", 1]], "tags": [["O", "O"]]}, "expected a list of words"),
        ({"tokens": [["a", "b"]], "tags": [["O"]]}, "1 tags for 2 words"),
        ({"tokens": [["a"]], "tags": ["O"]}, "holds 'O'; expected a list of tags"),
        ({"tokens": [["a", "b"]], "tags": [["O", 1]]}, "all names or all numbers"),
    ],
)
def test_rows_that_do_not_fit_are_refused(columns: dict[str, list[Any]], match: str) -> None:
    table = table_of(**columns)
    chosen = TASK.choose_columns(table, Columns())
    with pytest.raises(DataError, match=match):
        TASK.make_rows(table, chosen, columns["tags"])


def test_a_number_without_a_name_is_refused() -> None:
    table = Table(
        columns={"tokens": [["a"]], "tags": [[3]]}, origin="x", label_names={"tags": ("O", "B-a")}
    )
    chosen = TASK.choose_columns(table, Columns())
    with pytest.raises(DataError, match="holds the tag 3, but there are 2 names, for 0 to 1"):
        TASK.make_rows(table, chosen, table.columns["tags"])


def test_tags_that_training_lacks_are_refused() -> None:
    other = rows_of("a/B-DAY")
    with pytest.raises(DataError, match="split validation has tags that no training row has: B-D"):
        TASK.encode_labels(splits_of(TRAIN, other, TRAIN))


def test_rows_without_words_are_left_out() -> None:
    table = table_of(tokens=[["a"], [], None], tags=[["O"], [], None])
    with pytest.warns(DataWarning, match="left out 2 rows without words"):
        cleaned, num_empty = TASK.clean(table, TASK.choose_columns(table, Columns()))
    assert (len(cleaned), num_empty) == (1, 2)
