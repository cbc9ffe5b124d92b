"""Every file format gives the rows that were written, and every broken row is named by its place."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from launcher.data import columns, readers, sources
from launcher.errors import DataError
from launcher.schema import Source
from launcher.tasks.causal_lm import TRAITS

ROWS = [{"text": "one"}, {"text": '二 "quoted"\tand, more'}, {"text": "three"}]
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]


def read(path: Path, **options: Any) -> list[tuple[str, dict[str, Any]]]:
    return list(sources.examples(Source.model_validate({"path": str(path), **options}), TRAITS.formats))


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def conversation(folder: Path, messages: Any, **more: Any) -> dict[str, Any]:
    return read(put(folder, "chat.jsonl", lines({"messages": messages, **more})))[0][1]


def write(path: Path) -> None:
    import csv

    import pyarrow
    import pyarrow.parquet

    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["text"], *([row["text"]] for row in ROWS)])
    else:
        path.write_text(
            {
                ".jsonl": lines(*ROWS),
                ".json": json.dumps(ROWS),
                ".tsv": "text\n" + "".join(row["text"].replace("\t", " ") + "\n" for row in ROWS),
                ".txt": ROWS[1]["text"],
            }[path.suffix],
            encoding="utf-8",
        )


@pytest.mark.parametrize("suffix", readers.READERS)
def test_what_was_written_is_what_is_read(suffix: str, tmp_path: Path) -> None:
    write(tmp_path / f"data{suffix}")
    found = [row for _, row in read(tmp_path / f"data{suffix}")]
    wanted = ROWS[1:2] if suffix == ".txt" else ROWS
    assert found == ([{"text": row["text"].replace("\t", " ")} for row in wanted] if suffix == ".tsv" else wanted)


def test_the_check_and_the_reader_know_the_same_file_formats() -> None:
    assert list(readers.READERS) == list(columns.LOOKUPS)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".txt"])
def test_a_byte_order_mark_is_no_part_of_the_data(suffix: str, tmp_path: Path) -> None:
    write(tmp_path / f"plain{suffix}")
    marked = put(tmp_path, f"marked{suffix}", b"\xef\xbb\xbf" + (tmp_path / f"plain{suffix}").read_bytes())
    assert [row for _, row in read(marked)] == [row for _, row in read(tmp_path / f"plain{suffix}")]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".txt"])
def test_text_that_is_not_utf8_is_an_error_with_the_file(suffix: str, tmp_path: Path) -> None:
    path = put(tmp_path, f"latin{suffix}", "text\ncafé\n".encode("latin-1"))
    with pytest.raises(DataError, match=rf"latin\{suffix}: not UTF-8"):
        read(path)


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    jsonl = put(tmp_path, "a.jsonl", '{"text": "a"}\n\n  \n{"text": "b"}\n')
    assert [where for where, _ in read(jsonl)] == [f"{jsonl}:1", f"{jsonl}:4"]
    table = put(tmp_path, "a.csv", 'text,n\n"one\ntwo",1\n\nb,2\r\n"c\r\nd",3\n')
    assert [where for where, _ in read(table)] == [f"{table}:2", f"{table}:5", f"{table}:6"]
    assert [row["text"] for _, row in read(table)] == ["one\ntwo", "b", "c\r\nd"]
    array = put(tmp_path, "a.json", '[{"text": "a"},\n\n{"text": "b"}]')
    assert [where for where, _ in read(array)] == [f"{array} row 1", f"{array} row 2"]


BROKEN = {
    "half a line": ("x.jsonl", '{"text": "a"}\n\n{"text": \n', r"x\.jsonl:3: not JSON"),
    "not an object": ("x.jsonl", '{"text": "a"}\n["b"]\n', r"x\.jsonl:2: a row must be an object .* not list"),
    "another column": ("x.jsonl", '{"text": "a"}\n{"txt": "b"}\n', r"x\.jsonl:2: no column 'text'; this row has 'txt'"),
    "a number for text": ("x.jsonl", '{"text": 1}\n', r"x\.jsonl:1: column 'text' must be text, not int"),
    "null for text": ("x.jsonl", '{"text": null}\n', r"x\.jsonl:1: column 'text' must be text, not empty"),
    "half a character": ("x.jsonl", r'{"text": "a\ud83d"}', r"x\.jsonl:1: column 'text' holds half a character"),
    "no rows": ("x.jsonl", "\n", r"x\.jsonl: holds no rows"),
    "no columns of ours": ("x.jsonl", '{"q": "a"}', r"x\.jsonl:1: the columns 'q' are none of"),
    "json that is cut": ("x.json", '[{"text": "a"},\n {"te', r"x\.json:2:\d+: not JSON"),
    "json of one object": ("x.json", '{"text": "a"}', r"x\.json: a \.json data file must hold an array"),
    "json of strings": ("x.json", '["a"]', r"x\.json row 1: a row must be an object"),
    "empty json": ("x.json", "", r"x\.json:1:1: not JSON"),
    "a cell too few": ("x.csv", 'text,n\n"a\nb",1\nc\n', r"x\.csv:4: 1 cells where the header has 2"),
    "a cell too many": ("x.csv", "text,n\na,1\nb,2,3\n", r"x\.csv:3: 3 cells where the header has 2"),
    "an open quote": ("x.csv", 'text,n\na,1\n"b,2\nc,3\n', r"x\.csv:3: not CSV"),
    "a name twice": ("x.csv", "text,text\na,b\n", r"x\.csv:1: two columns"),
    "a tab too many": ("x.tsv", "text\tn\na\t1\t2\n", r"x\.tsv:2: 3 cells where the header has 2"),
    "header only": ("x.csv", "text\n", r"x\.csv: holds no rows"),
    "no parquet": ("x.parquet", "PAR1 no", r"x\.parquet: not a readable parquet file"),
    "an unknown suffix": ("x.xlsx", "a", r"x\.xlsx: no reader for '\.xlsx' files"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_row_is_named_by_its_place(name: str, tmp_path: Path) -> None:
    file, content, expected = BROKEN[name]
    with pytest.raises(DataError, match=expected):
        read(put(tmp_path, file, content))


@pytest.mark.parametrize(
    ("value", "says"),
    [("[" * 100_000 + "]" * 100_000, "it is nested too deep"), ("1" * 5000, "a number has thousands of digits")],
)
def test_json_that_is_too_much_for_its_reader_is_named_by_its_place(value: str, says: str, tmp_path: Path) -> None:
    row = f'{{"text": "a", "more": {value}}}'
    late = put(tmp_path, "late.jsonl", lines(*ROWS * 50) + row)
    errors: list[DataError] = []
    assert len(list(sources.examples(Source(path=str(late)), TRAITS.formats, errors.append))) == 150
    assert [str(error) for error in errors] == [f"{late}:151: not JSON that can be read: {says}"]
    whole = put(tmp_path, "whole.json", f"[{row}]")
    with pytest.raises(DataError, match=f"whole.json: not JSON that can be read: {says}"):
        list(readers.read(whole))
    for path in (whole, put(tmp_path, "soon.jsonl", row)):
        with pytest.raises(ValueError, match=f"is not JSON that can be read: {says}"):
            columns.column_names(path)


def test_an_index_column_without_a_name_does_not_disturb(tmp_path: Path) -> None:
    table = put(tmp_path, "pandas.csv", ",text\n0,a\n1,b\n")
    assert [row for _, row in read(table)] == [{"text": "a"}, {"text": "b"}]


def test_a_quote_inside_a_tsv_field_swallows_no_line(tmp_path: Path) -> None:
    table = put(tmp_path, "a.tsv", 'label\ttext\n0\t"never closed\n1\tb "c" d\n')
    assert [row["text"] for _, row in read(table)] == ['"never closed', 'b "c" d']


def test_a_folder_is_its_files_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a/2.jsonl", "a/1.tsv", "c.json"):
        content = {".txt": name, ".tsv": f"text\n{name}\n", ".json": json.dumps([{"text": name}])}
        put(tmp_path, name, content.get(Path(name).suffix, lines({"text": name})))
    put(tmp_path, "notes.md", "not data")
    assert [row["text"] for _, row in read(tmp_path)] == ["a/1.tsv", "a/2.jsonl", "b.txt", "c.json"]


def test_a_folder_without_data_and_a_choice_among_local_files_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "empty/readme.md", "")
    with pytest.raises(DataError, match="no data file"):
        read(tmp_path / "empty")
    path = put(tmp_path, "train.jsonl", lines(*ROWS))
    assert len(read(path, split="train")) == 3
    for where, choice in ((path, {"split": "train[:1%]"}), (path, {"name": "en"}), (tmp_path, {"split": "train"})):
        with pytest.raises(DataError, match="local files are read whole"):
            read(where, **choice)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_an_error_of_the_data(tmp_path: Path) -> None:
    path = put(tmp_path, "secret.jsonl", lines(*ROWS))
    path.chmod(0)
    with pytest.raises(DataError, match=r"secret\.jsonl: cannot be read"):
        read(path)


def test_columns_are_mapped_and_others_left_alone(tmp_path: Path) -> None:
    path = put(tmp_path, "qa.jsonl", lines({"question": "2+2", "answer": "4", "id": 7}))
    found = read(path, columns={"prompt": "question", "completion": "answer"})
    assert found[0][1] == {"prompt": "2+2", "completion": "4"}


def test_json_may_keep_its_rows_under_data(tmp_path: Path) -> None:
    path = put(tmp_path, "a.json", json.dumps({"version": 1, "data": ROWS}))
    assert [row for _, row in read(path)] == ROWS


def test_sharegpt_spelling_becomes_roles(tmp_path: Path) -> None:
    said = [("system", "s"), ("human", "h"), ("function_call", "{}"), ("observation", "o"), ("gpt", "g")]
    path = put(tmp_path, "a.jsonl", lines({"conversations": [{"from": f, "value": v} for f, v in said]}))
    turns = read(path, columns={"messages": "conversations"})[0][1]["messages"]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "tool", "assistant"]
    assert [turn["content"] for turn in turns] == [v for _, v in said]


@pytest.mark.parametrize("role", ["bot", "Assistant", ""])
def test_an_unknown_role_is_refused_because_nothing_would_be_trained_on_it(role: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"chat\.jsonl:1 messages\[1\]: unknown role '{role}'"):
        conversation(tmp_path, [TALK[0], {"role": role, "content": "Yes"}])


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant"},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
        {"role": 1, "content": "a"},
        {"content": "a"},
        "a",
        {"from": "gpt", "value": 1},
    ],
)
def test_a_message_that_says_nothing_usable_is_refused(message: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"chat\.jsonl:1 messages\[1\]"):
        conversation(tmp_path, [TALK[0], message])


@pytest.mark.parametrize("messages", [[], None, "Hi", {}])
def test_messages_that_are_no_conversation_are_refused(messages: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"chat\.jsonl:1: messages must be a list"):
        conversation(tmp_path, messages)


def test_a_tool_call_needs_no_content_and_keeps_its_keys(tmp_path: Path) -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "clock", "arguments": {}}}]}
    assert conversation(tmp_path, [TALK[0], {**call, "content": None}])["messages"][1] == call


@pytest.mark.parametrize("written", [[{"name": "clock"}], '[{"name": "clock"}]'])
def test_tools_come_as_a_list_or_as_json_text(written: Any, tmp_path: Path) -> None:
    assert conversation(tmp_path, TALK, tools=written)["tools"] == [{"name": "clock"}]


def test_absent_tools_leave_no_trace_and_broken_ones_are_refused(tmp_path: Path) -> None:
    for nothing in (None, "", "[]", []):
        assert "tools" not in conversation(tmp_path, TALK, tools=nothing)
    for broken in ("{", "{}", ["clock"], 3, "[" * 100_000, "[" + "1" * 5000 + "]"):
        with pytest.raises(DataError, match=r"chat\.jsonl:1: column 'tools'"):
            conversation(tmp_path, TALK, tools=broken)


def test_prompt_and_completion_written_as_turns_are_one_conversation(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", lines({"prompt": TALK[:1], "completion": TALK[1:]}))
    assert read(path)[0][1] == {"messages": TALK, "completion_turns": 1}


def test_the_fingerprint_changes_with_a_byte_and_with_the_reader(tmp_path: Path) -> None:
    def of(path: Path) -> list[str]:
        return sources.fingerprint(Source.model_validate({"path": str(path)}))

    first = put(tmp_path, "a.csv", "text\na\n")
    assert of(first) == of(put(tmp_path, "moved.csv", "text\na\n"))
    others = [put(tmp_path, "b.csv", "text\nb\n"), put(tmp_path, "a.tsv", "text\na\n")]
    assert of(first) not in [of(other) for other in others]


DATA = os.environ.get("LAUNCHER_DATA")


@pytest.mark.skipif(not DATA, reason="LAUNCHER_DATA is not set")
@pytest.mark.parametrize(
    ("file", "options", "rows"),
    [
        ("chat_oasst/train.jsonl", {}, 414),
        ("chat_kdconv_zh/train.jsonl", {}, 320),
        ("tool_glaive_en/train.json", {"columns": {"messages": "conversations"}}, 240),
        ("sft_codegen/train.json", {"columns": {"prompt": "instruction", "completion": "response"}}, 1500),
        ("cls_chnsenticorp_zh/train.tsv", {"columns": {"text": "text_a"}}, 2400),
        ("cls_banking77/train.csv", {}, 9003),
        ("text_tinyshakespeare/train.txt", {}, 1),
        ("pref_oasst/train.jsonl", {}, None),
        ("pref_dpo_en/train.json", {}, None),
    ],
)
def test_real_sets_give_all_their_rows(file: str, options: dict[str, Any], rows: int | None) -> None:
    if rows is None:
        with pytest.raises(DataError, match="are none of messages"):
            read(Path(str(DATA)) / file)
    else:
        assert len(read(Path(str(DATA)) / file, **options)) == rows
