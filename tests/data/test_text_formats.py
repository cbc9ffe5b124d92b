"""Labels, tags, spans and translations come out as they were written, or the place that is wrong is named."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from written import put, read, rows, source, spoiled

from launcher.errors import DataError
from launcher.recipe import local_files
from launcher.schema import Data

TOKEN_FORMATS = ("tagged_tokens", "conll", "conllu")
CONTEXT = "Paris is in France. Paris is old."


def recipe_of(path: Path, **options: Any) -> Any:
    """As much of a recipe as its check of the data's columns reads."""
    return SimpleNamespace(task="text_classification", data=Data(train=(source(path, **options),)))


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["pos", "1", 1, 0, 2.5, -1.0, True, [], ["a", "b"], [1, 2], [0.5]])
def test_a_label_is_passed_on_as_it_stands(label: Any, tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", [{"text": "a", "label": label}])
    found = rows(path, "labelled_text")[0]["label"]
    assert (found, type(found)) == (label, type(label))


@pytest.mark.parametrize("label", [None, "", "  ", {}, float("nan"), float("inf"), [None], [["a"]], [float("nan")]])
def test_what_is_no_label_is_refused(label: Any, tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": label}])
    with pytest.raises(DataError, match=r"a\.jsonl:2: column 'label' (is empty|must hold text or finite numbers)"):
        rows(path, "labelled_text")


@pytest.mark.parametrize("label", ["\ud83d", ["a", "\ud83d"]])
def test_half_a_character_is_no_label_and_no_id(label: Any, tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", [{"text": "a", "label": label}])
    with pytest.raises(DataError, match=r"a\.jsonl:1: column 'label' holds half a character"):
        rows(path, "labelled_text")
    path = put(tmp_path, "a.jsonl", [question(id="1\ud83d")])
    with pytest.raises(DataError, match=r"a\.jsonl:1: column 'id' holds half a character at position 1"):
        rows(path, "question_answers")
    path = put(tmp_path, "a.json", {"data": [{"paragraphs": [{"context": CONTEXT, "qas": [question(id="1\ud83d")]}]}]})
    with pytest.raises(DataError, match=r"qas\[0\] \(1\\ud83d\): column 'id' holds half"):
        rows(path, "squad")


def test_a_default_fills_what_is_left_out_or_null_and_nothing_else(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", [{"t": "a"}, {"t": "b", "l": None}, {"t": "c", "l": ["x"]}, {"t": "d", "l": []}])
    options = {"columns": {"text": "t", "label": "l"}, "defaults": {"label": ["none"]}}
    assert [row["label"] for row in rows(path, "labelled_text", **options)] == [["none"], ["none"], ["x"], []]
    table = put(tmp_path, "a.csv", "text,label\na,\nb,0\n")
    assert [row["label"] for row in rows(table, "labelled_text", defaults={"label": 7})] == [7, "0"]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_column_that_only_later_rows_have_is_a_column(name: str, tmp_path: Path) -> None:
    """The rows without it are named, and the way out is."""
    lacking = [{"text": "a", "slots": 1}] * 200
    path = put(tmp_path, name, [*lacking, {"text": "b", "slots": 2, "intents": ["x"]}])
    options = {"columns": {"label": "intents"}}
    assert not list(local_files.train_data(recipe_of(path, **options)))
    with pytest.raises(
        DataError, match=r"a\.jsonl?(:| row )1: no column 'intents'; this row has .*{label: \[\]} where"
    ):
        rows(path, "labelled_text", **options)
    found = rows(path, "labelled_text", **options, defaults={"label": []})
    assert [row["label"] for row in found] == [[]] * 200 + [["x"]]
    assert [key for key, _ in local_files.train_data(recipe_of(path, columns={"label": "intent"}))] == [
        "data.train.0.columns.label"
    ]


def test_a_default_is_a_new_list_every_time(tmp_path: Path) -> None:
    found = rows(put(tmp_path, "a.jsonl", [{"text": "a"}, {"text": "b"}]), "labelled_text", defaults={"label": []})
    found[0]["label"].append("changed")
    assert found[1]["label"] == []


def test_a_pair_is_a_pair_only_where_there_is_one(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", [{"text": "a", "text_pair": "b", "label": 1}, {"text": "c", "label": 1}])
    assert [sorted(row) for row in rows(path, "labelled_text")] == [["label", "text", "text_pair"], ["label", "text"]]
    with pytest.raises(DataError, match=r":2: no column 'text_pair'"):
        rows(path, "labelled_text", columns={"text_pair": "text_pair"})


def test_a_table_without_a_header_line_is_named_by_the_recipe(tmp_path: Path) -> None:
    table = put(tmp_path, "a.csv", b'\xef\xbb\xbf"1","one, ""two""\nthree"\r\n"2","four"\r\n')
    found = read(table, "labelled_text", header=["label", "text"])
    assert [where for where, _ in found] == [f"{table}:1", f"{table}:3"]
    assert [row for _, row in found] == [{"text": 'one, "two"\nthree', "label": "1"}, {"text": "four", "label": "2"}]
    tabs = put(tmp_path, "a.tsv", '1\t"never closed\n0\tb\n')
    assert rows(tabs, "labelled_text", header=["label", "text"])[0] == {"text": '"never closed', "label": "1"}


def test_a_header_for_a_file_that_has_one_is_refused(tmp_path: Path) -> None:
    table = put(tmp_path, "a.csv", "text,label\na,b\n")
    with pytest.raises(DataError, match=r"a\.csv:1: the file has a header line of its own; leave header out"):
        rows(table, "labelled_text", header=["text", "label"])


@pytest.mark.parametrize("bad", ['{"text": 1, "label": "x"}', "{", '["a"]', '{"label": "x"}', '{"text": "b"}'])
def test_reading_goes_on_behind_a_spoiled_row(bad: str, tmp_path: Path) -> None:
    good = '{"text": "a", "label": "x"}\n'
    found, errors = spoiled(put(tmp_path, "a.jsonl", good + bad + "\n" + good), "labelled_text")
    assert len(found) == 2 and [error.where for error in errors] == [f"{tmp_path}/a.jsonl:2"]


def test_a_spoiled_first_row_does_not_hide_the_format(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", '{\n[1]\n{"text": "a", "label": "x"}\n')
    found, errors = spoiled(path, "labelled_text")
    assert len(found) == 1 and len(errors) == 2


def test_a_file_that_cannot_be_read_on_is_an_error_though_rows_may_be_spoiled(tmp_path: Path) -> None:
    for name, content in (("a.csv", 'text,label\na,1\n"b,2\n'), ("a.json", "[{"), ("b.jsonl", '{"x": 1}')):
        with pytest.raises(DataError):
            spoiled(put(tmp_path, name, content), "labelled_text")


def test_new_data_needs_no_answers(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", [{"text": "a"}, {"text": "b", "label": None}, {"text": "c", "label": "x"}])
    found = rows(path, "labelled_text", labelled=False, columns={"label": "label"})
    assert found == [{"text": "a"}, {"text": "b"}, {"text": "c", "label": "x"}]
    for row, name in (
        ({"source": "a"}, "source_target"),
        ({"tokens": ["a"]}, "tagged_tokens"),
        ({"question": "a", "context": "b", "id": 1}, "question_answers"),
    ):
        assert set(rows(put(tmp_path, "b.jsonl", [row]), name, labelled=False)[0]) == set(row)
        with pytest.raises(DataError):
            rows(tmp_path / "b.jsonl", name)


# --- tokens -----------------------------------------------------------------------------------------------------------


def slow_conll(text: str) -> list[dict[str, Any]]:
    """Sentences by the definition, for data without comments."""
    blocks = "\n".join(line if line.strip() else "" for line in text.replace("\r\n", "\n").split("\n")).split("\n\n")
    sentences = [[line.split("\t") for line in block.split("\n") if line] for block in blocks]
    sentences = [[row for row in sentence if row[0] != "-DOCSTART-"] for sentence in sentences]
    return [{"tokens": [r[0] for r in s], "tags": [r[-1] for r in s]} for s in sentences if s]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_conll_is_what_a_slow_reader_finds(end: str, tmp_path: Path) -> None:
    draw = random.Random(0)
    lines = ["-DOCSTART-\tO", ""]
    for _ in range(300):
        words = draw.choices(["a", "#", "# x", "http://x#y", "\u3000", "\xa0", "🙂", "-", "B-"], k=draw.randint(0, 6))
        lines += [f"{word}\tX\t{draw.choice(['O', 'B-x', 'I-x'])}" for word in words]
        lines += draw.choices(["", "  ", "\t"], k=draw.randint(1, 3))
    text = end.join(lines)
    found = rows(put(tmp_path, "a.conll", text), *TOKEN_FORMATS)
    assert found == slow_conll(text) and len(found) > 200


def test_columns_of_conll_have_numbers(tmp_path: Path) -> None:
    path = put(tmp_path, "a.txt", "EU NNP B-NP B-ORG\nrejects VBZ  B-VP O\n\n")
    assert rows(path, *TOKEN_FORMATS) == [{"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]}]
    assert rows(path, "conll", columns={"tokens": "3", "tags": "1"})[0]["tags"] == ["NNP", "VBZ"]
    with pytest.raises(DataError, match=r"a\.txt:1: 4 columns, counted from 0; there is no column 4"):
        rows(path, "conll", columns={"tags": "4"})


def test_comments_before_a_sentence_are_told_from_the_token_hash(tmp_path: Path) -> None:
    text = "# id 1 domain=en\n# text = I AM\nI O\n# O\n\n# O\nx B-y\n\n# newdoc\n\n# only = A COMMENT\n"
    found = rows(put(tmp_path, "a.conll", text), "conll")
    assert found == [{"tokens": ["I", "#"], "tags": ["O", "O"]}, {"tokens": ["#", "x"], "tags": ["O", "B-y"]}]


def test_a_token_without_a_tag_is_named_by_its_line_and_the_next_sentence_read(tmp_path: Path) -> None:
    path = put(tmp_path, "a.conll", "a\tO\n\nb\tO\nc\nd\tO\n\ne\tO\n\nf\tO\tO\ng\tO\n")
    found, errors = spoiled(path, "conll")
    assert [row["tokens"] for row in found] == [["a"], ["e"]]
    assert [error.where for error in errors] == [f"{path}:4", f"{path}:10"]


def test_conll_without_tags_is_for_prediction_only(tmp_path: Path) -> None:
    path = put(tmp_path, "a.conll", "a\nb\n\nc\n")
    assert rows(path, "conll", labelled=False) == [{"tokens": ["a", "b"]}, {"tokens": ["c"]}]
    with pytest.raises(DataError, match=r"a\.conll:1: one column only"):
        rows(path, "conll")


def conllu(*words: tuple[str, str, str]) -> str:
    return "".join(f"{i}\t{form}\t_\t{upos}\tXP\t_\t0\troot\t_\t_\n" for i, form, upos in words)


def test_conllu_skips_ranges_and_empty_nodes(tmp_path: Path) -> None:
    words = [("1-2", "don't", "_"), ("1", "do", "AUX"), ("2", "n't", "PART"), ("2.1", "ghost", "X"), ("3", "#", "SYM")]
    path = put(tmp_path, "a.conllu", "# sent_id = 1\n" + conllu(*words) + "\n# x\n\n" + conllu(("1", "_", "PUNCT")))
    assert read(path, *TOKEN_FORMATS) == [
        (f"{path}:3", {"tokens": ["do", "n't", "#"], "tags": ["AUX", "PART", "SYM"]}),
        (f"{path}:10", {"tokens": ["_"], "tags": ["PUNCT"]}),
    ]
    assert rows(path, "conllu", columns={"tags": "4"})[1]["tags"] == ["XP"]


def test_a_word_whose_part_of_speech_is_not_given_is_no_class(tmp_path: Path) -> None:
    path = put(tmp_path, "a.conllu", conllu(("1", "a", "X"), ("2", "b", "_")))
    with pytest.raises(DataError, match=r"a\.conllu:2: no tag in column 3, but _"):
        rows(path, "conllu")
    assert rows(path, "conllu", labelled=False) == [{"tokens": ["a", "b"]}]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"tokens": ["a"], "tags": ["O", "O"]}, "1 tokens and 2 tags"),
        ({"tokens": [], "tags": []}, "column 'tokens' is empty"),
        ({"tokens": "a b", "tags": ["O", "O"]}, "column 'tokens' must be a list, not str; a list needs jsonl"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "token 1 in column 'tokens' must be text, not empty"),
        ({"tokens": ["a"], "tags": [None]}, "tag 0 in column 'tags' must be text, not empty"),
        ({"tokens": ["a"], "tags": None}, "column 'tags' must be a list, not empty"),
        ({"tokens": ["\ud83d"], "tags": ["O"]}, "token 0 holds half a character"),
    ],
)
def test_tokens_and_tags_that_do_not_fit(row: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        rows(put(tmp_path, "a.jsonl", [row]), "tagged_tokens")


# --- answers ----------------------------------------------------------------------------------------------------------


def question(*answers: tuple[str, int], **more: Any) -> dict[str, Any]:
    listed = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": "q", "question": "Where?", "context": CONTEXT, "answers": listed, **more}


def test_answers_come_as_a_list_or_as_the_hub_writes_them(tmp_path: Path) -> None:
    hub = {**question(), "answers": {"text": ["France", "Paris"], "answer_start": [12, 20]}}
    empty = {**question(), "answers": {"text": [], "answer_start": []}, "id": 7}
    path = put(tmp_path, "a.jsonl", [question(("France", 12), ("Paris", 20)), hub, empty])
    found = rows(path, "question_answers", "squad")
    assert found[0] == found[1] == question(("France", 12), ("Paris", 20))
    assert found[2] == {**question(), "id": "7"}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (("France", 13), r"a\.jsonl:1 answers\[0\]: 'France' .* answer_start 13 .* 'rance\.' does; it stands at 12"),
        (("France", -1), "answer_start -1 of the context, nothing is; it stands at 12, and nowhere else"),
        (("Paris", 1), "it stands at 0, 20"),
        (("Rome", 0), "it stands nowhere in the context"),
        (("France", 999), "nothing is"),
        (("", 0), "the text is empty"),
        ((" ", 5), "the text is empty"),
        (("France", 12.0), "a whole number"),
        (("France", True), "a whole number"),
        ((None, 0), "the text must be text, not empty"),
    ],
)
def test_an_answer_must_stand_where_it_says(answer: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        rows(put(tmp_path, "a.jsonl", [question(answer)]), "question_answers")


def test_answers_that_are_missing_are_not_answers_that_do_not_exist(tmp_path: Path) -> None:
    without = {key: value for key, value in question().items() if key != "answers"}
    for row in (without, {**without, "answers": None}, {**without, "answers": "France"}):
        with pytest.raises(DataError, match="answers"):
            rows(put(tmp_path, "a.jsonl", [row]), "question_answers")
    assert rows(put(tmp_path, "a.jsonl", [without]), "question_answers", defaults={"answers": []}) == [question()]


def test_squad_is_its_questions_in_order(tmp_path: Path) -> None:
    asked = [{key: q[key] for key in q if key != "context"} for q in (question(("France", 12)), question(id="r"))]
    impossible = {**asked[1], "id": "s", "is_impossible": True, "plausible_answers": [{"text": "x", "answer_start": 0}]}
    impossible.pop("answers")
    paragraphs = [{"context": CONTEXT, "qas": [*asked, impossible]}]
    path = put(tmp_path, "a.json", {"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]})
    found = read(path, "question_answers", "squad")
    assert [row for _, row in found] == [question(("France", 12)), question(id="r"), question(id="s")]
    assert found[2][0] == f"{path} data[0].paragraphs[0].qas[2] (s)"
    assert rows(path, "squad") == rows(tmp_path, "squad")


def test_a_broken_squad_question_is_spoiled_alone(tmp_path: Path) -> None:
    qas = [
        {"id": "a", "question": "?", "answers": [{"text": "x", "answer_start": 5}]},
        "no",
        {"id": "b", "question": "?"},
    ]
    qas.append({"id": "c", "question": "?", "answers": []})
    path = put(tmp_path, "a.json", {"data": [{"paragraphs": [{"context": CONTEXT, "qas": qas}]}]})
    found, errors = spoiled(path, "squad")
    assert [row["id"] for row in found] == ["c"] and len(errors) == 3
