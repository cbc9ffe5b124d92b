"""Attributions are those of the closed form where there is one, add up where there is none, and stand where they belong."""

import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import tiny_tasks
import torch
from torch import nn

from launcher.__main__ import main
from launcher.explain import explainer, gradients, media
from launcher.explain.explainer import Settings
from launcher.predict import Predictor

SENTENCE = "the cat sees a red dog"


def trained(task: str, folder: Path) -> Path:
    recipe = tiny.make(folder) if task == "causal_lm" else tiny_tasks.make(task, folder)
    assert tiny.train(recipe, f"output_dir={folder / 'run'}", "training.max_steps=1", "scheduler.warmup_steps=0") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run of a task, made when it is first asked for."""
    made: dict[str, Path] = {}

    def of(task: str) -> Path:
        if task not in made:
            made[task] = trained(task, tmp_path_factory.mktemp(task))
        return made[task]

    return of


@pytest.fixture
def explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """The first explanation that is written, the page as `page`, and what is printed as `said`."""

    def of(*words: Any) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["explain", *map(str, words), "--output", str(tmp_path / "out")]) == 0
        record = json.loads((tmp_path / "out" / "explanation.json").read_text(encoding="utf-8"))
        page = (tmp_path / "out" / "explanation.html").read_text(encoding="utf-8")
        return {
            **record["explanations"][0],
            "page": page,
            "said": capsys.readouterr().out,
            "all": record["explanations"],
        }

    return of


class Linear(nn.Module):
    """Logits that are linear in the embeddings, with weights of their own for each place."""

    def __init__(self, vocabulary: int, labels: int):
        super().__init__()
        chance = torch.Generator().manual_seed(0)
        self.embedding = nn.Embedding(vocabulary, 5, _weight=torch.randn(vocabulary, 5, generator=chance))
        self.weight = torch.randn(64, 5, labels, generator=chance)
        self.config = SimpleNamespace(is_encoder_decoder=False)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def forward(self, input_ids: torch.Tensor, **others: Any) -> Any:
        embedded = self.embedding(input_ids)
        return SimpleNamespace(logits=torch.einsum("rtd,tdl->rl", embedded, self.weight[: input_ids.shape[1]]))


def test_a_linear_model_has_the_attributions_of_the_closed_form(runs: Callable[[str], Path]) -> None:
    """weight * (embedding - baseline), summed over the embedding; the special token at the end stays as it is."""
    predictor = Predictor.of(runs("text_classification") / "export")
    linear = Linear(32, 3)
    predictor = replace(predictor, objective=SimpleNamespace(model=linear))
    found = explainer.explain(predictor, "here", {"text": SENTENCE}, False, Settings(target="plant", steps=3)).record
    tokenizer = predictor.context.processor
    ids = tokenizer(SENTENCE)["input_ids"]
    label = predictor.context.labels.names.index("plant")
    change = linear.embedding.weight[ids[:-1]] - linear.embedding.weight[tokenizer.pad_token_id]
    expected = (change * linear.weight[: len(ids) - 1, :, label]).sum(1)
    assert [token["attribution"] for token in found["tokens"]] == pytest.approx([*expected.tolist(), 0.0], abs=1e-5)
    assert found["tokens"][-1]["special"] and not any(token["special"] for token in found["tokens"][:-1])
    assert found["convergence_delta"] == pytest.approx(0, abs=1e-5)
    assert found["difference"] == pytest.approx(expected.sum().item(), abs=1e-5)


@pytest.mark.parametrize(
    ("task", "given"),
    [
        ("text_regression", "eval.csv"),
        ("token_classification", "ada lives in unriverly paris"),
        ("question_answering", "eval.jsonl"),
        ("seq2seq_lm", "the cat"),
        ("image_classification", "eval"),
        ("audio_classification", "eval"),
    ],
)
def test_attributions_add_up(
    task: str, given: str, runs: Callable[[str], Path], explained: Callable[..., dict[str, Any]]
) -> None:
    """Completeness, with what is said by word, cell or second as by token, pixel or sample."""
    run = runs(task)
    given = str(run.parent / given) if (run.parent / given).exists() else given
    found = explained(run, given, "--rows", 1, "--steps", 150)
    kinds = [kind for kind in ("tokens", "words", "seconds") if found.get(kind)]
    sums = [sum(one["attribution"] for one in found[kind]) for kind in kinds]
    sums += [sum(map(sum, found["cells"]))] if "cells" in found else []
    assert sums and abs(found["difference"]) > 1e-5
    for total in sums:
        assert total == pytest.approx(found["difference"], rel=0.02, abs=1e-5)
    assert found["sum_of_attributions"] == pytest.approx(found["output"] - found["baseline_output"], rel=0.02, abs=1e-5)


def test_a_pair_has_tokens_of_both(runs: Callable[[str], Path], explained: Callable[..., dict[str, Any]]) -> None:
    run = runs("text_regression")
    found = explained(run, run.parent / "eval.csv", "--rows", 2)
    assert len(found["all"]) == 2
    for one in found["all"]:
        texts = one["input"].split(" | ")
        for part in (0, 1):
            mine = [token for token in one["tokens"] if token["part"] == part and not token["special"]]
            assert [texts[part][token["start"] : token["end"]] for token in mine] == [token["token"] for token in mine]


def test_a_decoder_explains_the_next_token_and_a_text(
    runs: Callable[[str], Path], explained: Callable[..., dict[str, Any]]
) -> None:
    """With its adapter, and the tokens of the text that is asked about held fixed."""
    run = runs("causal_lm")
    next_token = explained(run, SENTENCE)
    assert [token["token"] for token in next_token["tokens"] if not token["special"]] == SENTENCE.split()
    assert next_token["label"] == next_token["predicted"]
    assert next_token["output"] == pytest.approx(torch.tensor(next_token["probability"]).log().item(), abs=1e-4)
    text = explained(run, SENTENCE, "--target", "a red bird")
    assert "the 3 tokens of 'a red bird'" in text["explained"]
    assert [token["token"] for token in text["tokens"]][-2:] == ["a", "red"]
    assert all(token["special"] and token["attribution"] == 0 for token in text["tokens"][-2:])
    assert sum(token["attribution"] for token in text["tokens"]) == pytest.approx(text["difference"], rel=0.02)
    assert text["output"] < next_token["output"]


def test_the_tag_of_a_word(runs: Callable[[str], Path], explained: Callable[..., dict[str, Any]]) -> None:
    run = runs("token_classification")
    by_name = explained(run, "ada lives in paris", "--word", "paris", "--target", "B-LOC")
    assert (by_name["word_number"], by_name["label"]) == (4, "B-LOC")
    assert explained(run, "ada lives in paris", "--word", "4", "--target", "B-LOC")["tokens"] == by_name["tokens"]
    pieces_of_lives = [token for token in by_name["tokens"] if token["start"] == 4]
    assert len(pieces_of_lives) > 1  # cut into letters
    lives = next(word for word in by_name["words"] if word["word"] == "lives")
    assert lives["attribution"] == pytest.approx(sum(token["attribution"] for token in pieces_of_lives))


def test_the_start_and_the_end_of_an_answer_add_up_to_both(
    runs: Callable[[str], Path], explained: Callable[..., dict[str, Any]]
) -> None:
    run = runs("question_answering")
    data = run.parent / "eval.jsonl"
    found = [explained(run, data, "--rows", 1, *words) for words in ((), ("--target", "start"), ("--target", "end"))]
    both, start, end = ([token["attribution"] for token in one["tokens"]] for one in found)
    assert both == pytest.approx([a + b for a, b in zip(start, end, strict=True)], abs=1e-4)


def test_how_many_points_go_at_once_changes_nothing(
    runs: Callable[[str], Path], explained: Callable[..., dict[str, Any]]
) -> None:
    run = runs("text_classification")
    found = [explained(run, SENTENCE, "--batch-size", number) for number in (1, 50, 50)]
    values = [[token["attribution"] for token in one["tokens"]] for one in found]
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    assert found[1]["page"] == found[2]["page"]


def test_too_few_steps_are_said(runs: Callable[[str], Path], explained: Callable[..., dict[str, Any]]) -> None:
    run = runs("token_classification")
    found = explained(run, "ada lives in unriverly paris", "--steps", 1)
    assert abs(found["convergence_delta"]) > gradients.TOO_FAR * abs(found["difference"])
    for where in ("said", "page"):
        assert "do not trust them, raise --steps (for example to 4)" in found[where]
    assert "raise --steps" not in explained(run, "ada lives in unriverly paris", "--steps", 200)["said"]


def test_the_page_needs_nothing_else_and_escapes(
    runs: Callable[[str], Path], explained: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    odd = tmp_path / "odd.txt"
    odd.write_text('<b>the cat</b> sees "a" dog\n')
    page = explained(runs("text_classification"), odd)["page"]
    assert "<b>the" not in page and "&lt;b&gt;the" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page) and "url(" not in page and "<script" not in page


def test_a_picture_is_shown_beside_its_attributions(
    runs: Callable[[str], Path], explained: Callable[..., dict[str, Any]]
) -> None:
    """As the model sees it; and the baseline is what was asked for."""
    import base64

    from PIL import Image

    run = runs("image_classification")
    picture = next((run.parent / "eval" / "red").glob("*.png"))
    black, mean = (explained(run, picture, "--baseline", name) for name in ("black", "mean"))
    assert black["baseline"] == "a black picture" and black["baseline_output"] != mean["baseline_output"]
    content = re.findall(r"data:image/png;base64,([^\"]+)", black["page"])
    seen, overlay = (Image.open(io.BytesIO(base64.b64decode(one))) for one in content)
    assert seen.size == overlay.size and seen.convert("RGB").getpixel((5, 5))[0] > 100
    assert any(len(set(overlay.convert("RGB").getpixel((x, x)))) > 1 for x in range(0, overlay.width, 3))


def test_black_is_black_to_the_model(runs: Callable[[str], Path]) -> None:
    predictor = Predictor.of(runs("image_classification") / "export")
    processor = predictor.context.processor
    given = torch.rand(1, 3, 8, 8)
    baseline, _ = media.picture_baseline(SimpleNamespace(inputs={"pixel_values": given}), "black", processor)
    assert baseline.shape == given.shape
    assert max(map(max, media.as_seen(baseline, processor).getextrema())) == 0


def test_what_is_stored_in_16_bits_is_explained_in_32(runs: Callable[[str], Path]) -> None:
    predictor = Predictor.of(runs("text_classification") / "export")
    assert explainer.in_full_precision(predictor) == "in float32"
    predictor.objective.bfloat16()
    assert explainer.in_full_precision(predictor) == "in float32 (the export is in bfloat16)"
    assert {parameter.dtype for parameter in predictor.objective.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("task", "words", "message"),
    [
        ("text_classification", ("the cat", "--target", "animl"), "there is no label animl; did you mean animal?"),
        ("text_classification", ("the cat", "--word", "cat"), "--word is for token_classification"),
        ("text_classification", ("the cat", "--baseline", "black"), "--baseline black is none for text_classification"),
        ("text_classification", ("the cat", "--baseline", "mask"), "the tokenizer has no mask token; use zero"),
        ("text_regression", ("the cat",), "has learned from pairs"),
        ("token_classification", ("ada lives", "--word", "lifes"), "there is no word lifes; did you mean lives?"),
        ("image_classification", ("no.png",), "there is no file"),
    ],
)
def test_what_cannot_be_explained_is_said(
    task: str, words: tuple[str, ...], message: str, runs: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(runs(task)), *words]) == 89
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("task", ["object_detection", "semantic_segmentation"])
def test_tasks_without_one_number_are_refused_by_name(
    task: str, runs: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Known from the export before anything is read; the model may be any."""
    import importlib

    predictor = replace(
        Predictor.of(runs("image_classification") / "export"), task=importlib.import_module(f"launcher.tasks.{task}")
    )
    with pytest.raises(Exception, match=f"does not explain {task}: no one number says"):
        explainer.insist_on_task(predictor, Settings())


def test_captum_that_is_missing_is_named(
    runs: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    assert main(["explain", str(runs("text_classification")), "the cat"]) == 89
    assert "pip install 'finetune-launcher[explain]'" in capsys.readouterr().err


def test_a_folder_that_is_no_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(tmp_path / "nothing"), "a"]) == 89
    assert "nothing: there is no such folder" in capsys.readouterr().err
    assert main(["explain", str(tmp_path), "a"]) == 89
    assert "not an export of the launcher" in capsys.readouterr().err


def test_a_baseline_of_zeros_where_a_norm_jumps_is_said(
    runs: Callable[[str], Path], explained: Callable[..., dict[str, Any]]
) -> None:
    said = explained(runs("causal_lm"), SENTENCE, "--steps", 1, "--baseline", "zero")["said"]
    assert "warning" in said and "name another --baseline" in said
    model = Predictor.of(runs("causal_lm") / "export").objective.model
    ids = torch.tensor([[5, 7]])
    assert gradients.is_near_zero(model, -1, ids) and not gradients.is_near_zero(model, 9, ids)


@pytest.mark.slow
def test_quantised_weights_are_explained_as_they_are(
    tmp_path: Path, explained: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    import quantized

    assert tiny.train(quantized.make(tmp_path), f"output_dir={tmp_path / 'run'}", "training.max_steps=3") == 0
    found = explained(tmp_path / "run", SENTENCE)
    assert found["computed"].startswith("as stored: quantised weights")
    assert found["sum_of_attributions"] == pytest.approx(found["difference"], rel=0.05)
