"""`launcher convert` as a person types it: exit codes, what is printed, and a last line that a recipe takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from launcher import recipe
from launcher.__main__ import main
from launcher.schema import Source

ROOT = Path(__file__).parent.parent
DATA = ROOT / "recipes" / "data"


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from launcher.__main__ import main\ntry: main(['convert', '--help'])\nfinally: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "--to FORMAT" in done.stdout and not {"torch", "transformers", "pyarrow", "datasets"} & set(
        done.stdout.split()
    )


def test_the_last_line_is_one_of_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a name needs quotes, too."""
    output = tmp_path / "a, b: {c}" / "topics.parquet"
    assert main(["convert", str(DATA / "python_topics_eval.csv"), "--to", "parquet", "--output", str(output)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "568 rows of labelled_text -> parquet: 568 written and read back"
    source = yaml.safe_load(said[-1])["data"]["train"][0]
    assert Source.model_validate(source).path == str(output)
    loaded = recipe.load(ROOT / "recipes" / "bert_text_classification.yaml", [f"data.train=[{json.dumps(source)}]"])
    assert loaded.data.train[0].format == "labelled_text"


def test_columns_headers_and_defaults(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('4\tgood "film\n\tbad\n')
    words = ["convert", str(tmp_path / "a.tsv"), "--to", "jsonl", "--output", str(tmp_path / "a.jsonl")]
    assert (
        main([*words, "--header", "stars,review", "--columns", "text=review,label=stars", "--defaults", "label=0"]) == 0
    )
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert rows == [{"text": 'good "film', "label": "4"}, {"text": "bad", "label": 0}]


def test_losses_are_printed_where_they_are_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"text": "a\\tb", "label": 1, "by": "me"}\n{"text": "c", "label": "2"}\n{"text": 7}\n'
    )
    words = [
        "convert",
        str(tmp_path / "a.jsonl"),
        "--to",
        "tsv",
        "--output",
        str(tmp_path / "a.tsv"),
        "--on-error",
        "skip",
    ]
    assert main(words) == 89
    assert "1 x tabs and line ends in cells, which become spaces (first: " in capsys.readouterr().err
    assert main([*words, "--allow-loss"]) == 0
    said = capsys.readouterr().out
    told = ("being no part of labelled_text: column 'by' (1 x)", "2 rows of", "skipped: 1 rows", ":3: ")
    for line in (*told, "lost: 1 x tabs", "changed: 1 x labels"):
        assert line in said, line
    assert (tmp_path / "a.tsv").read_text() == "text\tlabel\na b\t1\nc\t2\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "INPUT and --to and --output must be given"),
        (["x.csv", "--to", "csv", "--output", "y.csv"], "neither a file here nor a hub data set"),
        (["a.txt", "--to", "csv", "--output", "y.csv"], "a .txt file may be a text or CoNLL"),
        (["a.csv", "--to", "csv", "--output", "y.csv", "--columns", "text"], "not of the form"),
        (["", "--to", "csv", "--output", "y.csv"], "no source of data"),
        (["a.csv", "--to", "csv", "--output", ".."], "files that end with .csv"),
        (["a.csv", "--to", "voc", "--output", ".."], "is no name of a new file or folder"),
        (["a.csv", "--to", "csv", "--output", "y.csv", "--defaults", "label=[1"], "--defaults label=[1 holds no value"),
        (["a.csv", "--to", "csv", "--output", "y.csv", "--columns", "txt=a"], "did you mean text"),
        (["a.csv", "--to", "csv", "--output", "y.csv", "--format", "labeled_text"], "did you mean labelled_text"),
        (
            ["a.csv", "--to", "csv", "--output", "y.csv", "--task", "text_clasification"],
            "did you mean text_classification",
        ),
        (["a.csv", "--to", "csv", "--output", "a.csv", "--overwrite"], "what is read"),
        (["a.csv", "--to", "csv", "--output", "a.txt"], "files that end with .csv"),
    ],
)
def test_what_is_wrong_ends_with_89(words, says, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "a.txt"):
        Path(name).write_text("text,label\na,b\n")
    assert main(["convert", *words]) == 89
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.txt"]


def test_a_task_tells_what_a_table_is(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,1\n")
    words = ["convert", str(tmp_path / "a.csv"), "--to", "jsonl", "--output", str(tmp_path / "a.jsonl")]
    assert main([*words, "--task", "causal_lm"]) == 0
    assert (tmp_path / "a.jsonl").read_text() == '{"text": "a"}\n'
