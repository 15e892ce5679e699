"""Reading local files, and what is said of broken ones."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.errors import DataError
from autopeft.workers.data.files import read_file
from tests.workers.data.rows import write_jsonl

TEXTS = ["plain", 'with "quotes", and commas', "two\nlines", "separator \u2028 inside", "größe 🙂"]


def test_the_same_rows_are_read_from_every_format(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": TEXTS, "label": ["a", "b", "a", "b", "a"]})
    write_jsonl(tmp_path / "rows.jsonl", frame.to_dict("records"))
    frame.to_csv(tmp_path / "rows.csv", index=False)
    frame.to_csv(tmp_path / "rows.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "rows.parquet")
    names = ("rows.jsonl", "rows.csv", "rows.tsv", "rows.parquet")
    tables = [read_file(tmp_path / name, name) for name in names]
    assert [dict(table.columns) for table in tables] == [frame.to_dict("list")] * 4


def test_a_row_is_placed_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\n{"text": "one"}\n\n{"text": "two"}\n')
    (tmp_path / "a.csv").write_text('text\n"spans\ntwo lines"\n\nlast\n')
    assert read_file(tmp_path / "a.jsonl", "a.jsonl").where(1) == "a.jsonl, line 4"
    table = read_file(tmp_path / "a.csv", "a.csv")
    assert table.columns["text"] == ["spans\ntwo lines", "last"]
    assert [table.where(row) for row in (0, 1)] == ["a.csv, line 2", "a.csv, line 5"]


def test_a_key_that_some_lines_lack_is_missing_there(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}, {"label": 1}])
    table = read_file(tmp_path / "a.jsonl", "a.jsonl")
    assert dict(table.columns) == {"text": ["one", None], "label": [None, 1]}


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext,label\nhello,1\n")
    assert list(read_file(tmp_path / "a.csv", "a.csv").columns) == ["text", "label"]


def test_a_csv_field_may_be_long(tmp_path: Path) -> None:
    text = "x" * 200_000
    (tmp_path / "a.csv").write_text(f"text\n{text}\n")
    assert read_file(tmp_path / "a.csv", "a.csv").columns["text"] == [text]


BROKEN = {
    "empty.jsonl": (b"", "there are no rows"),
    "blank.jsonl": (b"\n\n", "there are no rows"),
    "header.csv": (b"text,label\n", "there are no rows"),
    "nothing.csv": (b"", "there are no rows"),
    "cut.jsonl": (b'{"text": "a"}\n{"text": "b', r"cut\.jsonl, line 2: is not JSON \(Untermin"),
    "list.jsonl": (b'{"text": "a"}\n\n["b"]\n', "line 3: expected a JSON object"),
    "keyless.jsonl": (b"{}\n{}\n", "no keys"),
    "deep.jsonl": (b"[" * 100_000, "line 1: is not JSON"),
    "long.jsonl": (b"9" * 5000, "line 1: is not JSON"),
    "latin.jsonl": (b'{"text": "a"}\n{"text": "gr\xfc\xdfe"}', "line 2: byte 26 is not UTF-8"),
    "binary.jsonl": (b"\x89PNG\r\n\x1a\n\x00\x00", "line 1: byte 0 is not UTF-8"),
    "zero.csv": (b"text,label\na,\0\n", "line 2: holds a zero byte"),
    "ragged.csv": (b"text,label\na,1\nb, c,1\n", "line 3: expected 2 fields .* received 3"),
    "short.csv": (b"text,label\na\n", "line 2: expected 2 fields .* received 1"),
    "open.csv": (b'text,label\n"never closed,1\n', "is not CSV"),
    "twice.csv": (b"text,text\na,b\n", "names 'text' twice"),
    "semicolons.csv": (b"text;label\na;1\n", "seem to be separated by ';'"),
    "junk.parquet": (b"PAR1 but not really", "not a readable Parquet file"),
    "rows.json": (b"[]", r"files that end in '\.json'; expected \.jsonl"),
    "rows": (b"", "files that end in ''"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_its_place(tmp_path: Path, name: str) -> None:
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_file(tmp_path / name, name)


def test_a_missing_file_offers_the_nearest_one(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"text": "a"}])
    with pytest.raises(DataError, match=r"no such file; did you mean 'train\.jsonl'"):
        read_file(tmp_path / "trian.jsonl", "trian.jsonl")
    with pytest.raises(DataError, match="no folder 'data'"):
        read_file(tmp_path / "data" / "train.jsonl", "data/train.jsonl")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_file(tmp_path / "train.jsonl", "train.jsonl")


def test_a_parquet_file_with_one_name_twice_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="column 'text' twice"):
        read_file(tmp_path / "a.parquet", "a.parquet")


def test_numbers_are_typed_everywhere_but_in_csv(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a", "label": 1}))
    (tmp_path / "a.csv").write_text("text,label\na,1\n")
    typed = read_file(tmp_path / "a.jsonl", "a.jsonl")
    untyped = read_file(tmp_path / "a.csv", "a.csv")
    assert (typed.columns["label"], typed.is_typed) == ([1], True)
    assert (untyped.columns["label"], untyped.is_typed) == (["1"], False)


@given(content=st.binary(max_size=60) | st.text(alphabet='{}[]",:\n\t01aé', max_size=60))
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_whatever_a_file_holds_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, content: bytes | str
) -> None:
    file = tmp_path_factory.getbasetemp() / f"junk.{suffix}"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        lengths = {len(values) for values in read_file(file, file.name).columns.values()}
    except DataError as error:
        message = error.message
    else:
        assert len(lengths) == 1
        return
    assert message.startswith(file.name)
