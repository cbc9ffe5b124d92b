"""Which differences between ranks end a run, which are told, and which are allowed; tests/multinode has real hosts."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from safetensors.torch import load_file, save_file

from launcher import consistency, engine, recipe, run
from launcher.consistency import Facts, problems_of
from launcher.data.digest import sampled_digest


@pytest.fixture(scope="module")
def prepared(recipe: Path) -> run.Prepared:
    return prepare(recipe)


def prepare(path: Path, *overrides: str) -> run.Prepared:
    return run.prepare_all(recipe.load(path, overrides), engine.world())


def facts(prepared: run.Prepared, host: str = "a", resume: str | None = None) -> Facts:
    return replace(consistency._facts(prepared.recipe, resume, prepared), host=host)


def test_equal_ranks_have_no_problem(prepared: run.Prepared) -> None:
    assert problems_of([facts(prepared), facts(prepared), facts(prepared, "b")]) == []


def test_every_rank_with_another_value_is_named(prepared: run.Prepared, recipe: Path) -> None:
    other = prepare(recipe, "seed=7", "optimizer.learning_rate=0.5")
    ranks = [facts(prepared), facts(prepared), facts(other, "b"), facts(other, "c"), facts(prepared, "b")]
    assert problems_of(ranks) == [
        "seed: 42 on a (ranks 0, 1), b (rank 4), 7 on b (rank 2), c (rank 3)",
        "optimizer.learning_rate: 0.01 on a (ranks 0, 1), b (rank 4), 0.5 on b (rank 2), c (rank 3)",
        f"-> {consistency.FIXES['recipe']}",
    ]


def test_other_options_of_the_command_line_are_named(prepared: run.Prepared) -> None:
    ranks = [facts(prepared), facts(prepared, "b", resume="auto")]
    assert problems_of(ranks)[0] == "--resume: null on a (rank 0), auto on b (rank 1)"


def test_a_copy_at_another_place_is_the_same(prepared: run.Prepared, tmp_path: Path) -> None:
    copy = prepare(tiny.make(tmp_path), "name=tiny", f"data.cache_dir={tmp_path / 'cache'}")
    assert copy.recipe.model.name_or_path != prepared.recipe.model.name_or_path
    assert problems_of([facts(prepared), facts(copy, "b")]) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "name"),
    [
        ("train.jsonl", "cat", "dog", "data.train.0"),
        ("eval.jsonl", "cat", "dog", "data.eval.0"),
        ("model/config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05', "model configuration"),
        ("model/chat_template.jinja", "{% endfor", "<|end|> {% endfor", "tokenizer"),
    ],
)
def test_a_copy_that_was_changed_is_named(
    prepared: run.Prepared, tmp_path: Path, file: str, old: str, new: str, name: str
) -> None:
    path = tiny.make(tmp_path)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    problems = problems_of([facts(prepared), facts(prepare(path), "b")])
    assert name in [line.split(":")[0] for line in problems], problems
    assert problems[-1] == f"-> {consistency.FIXES['files']}"


def test_a_model_with_other_weights_is_named(prepared: run.Prepared, tmp_path: Path) -> None:
    path = tiny.make(tmp_path)
    weights = tmp_path / "model" / "model.safetensors"
    save_file({name: 1.01 * tensor for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    (problem, _) = problems_of([facts(prepared), facts(prepare(path), "b")])
    assert problem.startswith("model weights: ")


def test_what_the_hardware_decides_is_told_only_where_nothing_else_differs(prepared: run.Prepared) -> None:
    here, there = facts(prepared), facts(prepared, "b")
    amx = replace(there, plan=there.plan | {"precision": "bf16"})
    assert problems_of([here, amx]) == [
        "precision: fp32 on a (rank 0), bf16 on b (rank 1)",
        f"-> {consistency.FIXES['plan']}",
    ]
    both = replace(amx, code=amx.code | {"torch": "1.0", "launcher": "another"})
    problems = problems_of([here, both])
    assert [line.split(":")[0] for line in problems[:-1]] == ["launcher", "torch"]
    assert problems[-1] == f"-> {consistency.FIXES['code']}"


def test_more_cores_and_another_python_are_no_problem(prepared: run.Prepared) -> None:
    here, there = facts(prepared), facts(prepared, "b")
    assert "threads_per_process" not in here.plan and "world_size" in here.plan
    newer = replace(there, harmless=there.harmless | {"python": "3.99"})
    assert problems_of([here, newer]) == []
    (line,) = consistency.differences(["a", "b"], [here.harmless, newer.harmless])
    assert line.startswith("python: ") and line.endswith("3.99 on b (rank 1)")


def test_the_sampled_digest_covers_a_file_from_end_to_end(tmp_path: Path) -> None:
    content = bytearray(2**22)
    whole = tmp_path / "whole"
    digests = set()
    for place in (None, 0, 2**21, 2**22 - 1):  # the middle lies in a sample, or between two that are 12 KiB apart
        changed = bytearray(content)
        if place is not None:
            changed[place : place + 16384] = b"x" * len(changed[place : place + 16384])
        whole.write_bytes(changed)
        digests.add(sampled_digest(whole))
    whole.write_bytes(content[:-1])
    assert len(digests | {sampled_digest(whole)}) == 5


def test_many_hosts_are_not_all_listed() -> None:
    line = consistency.differences(list("abcdefg"), [{"x": 1}] * 6 + [{"x": 2}])
    assert line == ["x: 1 on a (rank 0), b (rank 1), c (rank 2), d (rank 3) and 2 more, 2 on g (rank 6)"]


def test_comparing_does_not_count_as_reading(recipe: Path) -> None:
    from launcher.recipe import load

    loaded = load(recipe)
    loaded.start_audit()
    unread = loaded.unread()
    consistency._keys(loaded)
    assert loaded.unread() == unread != []
