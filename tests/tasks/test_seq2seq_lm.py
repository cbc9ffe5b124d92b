"""A text into another: the loss against transformers' own, rows, answers, scores, new tokens, and predictions with the export."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_seq2seq
import tiny_tasks
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MBartConfig,
    MBartForConditionalGeneration,
)

from launcher import chance, log, model, parts, processor, recipe
from launcher.data.context import Context, Tools
from launcher.errors import DataError, RecipeError, RecipeErrors
from launcher.generation import Generation, Question
from launcher.schema import Data
from launcher.tasks.seq2seq_lm import Config, answers, metrics, rows
from launcher.tasks.seq2seq_lm.objective import build

ROWS = [([5, 9, 7, 1], [30, 31, 1]), ([8, 1], [40, 1]), ([3, 4, 5, 6, 7, 8, 1], [50, 51, 52, 53, 54, 1])]
ROWS += [([9, 9, 1], [60, 61, 62, 63, 1]), ([7, 1], [33, 1]), ([6, 5, 4, 1], [70, 1])]
OTHERS = {
    "mbart": (MBartForConditionalGeneration, MBartConfig),
    "m2m_100": (M2M100ForConditionalGeneration, M2M100Config),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: tiny_seq2seq.save(tmp_path_factory.mktemp(kind), kind) for kind in ("t5", "bart", "marian")}


def load(folders: dict[str, Path], kind: str) -> Any:
    if kind in folders:
        return AutoModelForSeq2SeqLM.from_pretrained(folders[kind]).double()
    model_class, config = OTHERS[kind]  # of which one shifts its labels in its own way, and one does not say how
    torch.manual_seed(0)
    shape = {**tiny_seq2seq.BART, **tiny_seq2seq.SPECIAL, "vocab_size": 100, "decoder_start_token_id": 2}
    return model_class(config(**shape, encoder_layerdrop=0.0, decoder_layerdrop=0.0)).double()


def context(folders: dict[str, Path], **data: Any) -> Context:
    return Context(AutoTokenizer.from_pretrained(folders["t5"]), Data.model_validate(data))


def batch(some: list[tuple[list[int], list[int]]], context: Context) -> dict[str, torch.Tensor]:
    def read(index: int, names: Any) -> dict[str, Any]:
        return dict(zip(("input_ids", "labels"), some[index], strict=True))

    return rows.collate([[index] for index in range(len(some))], read, context)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is told the user."""
    lines: list[str] = []
    monkeypatch.setattr(log, "say", lines.append)
    return lines


# --- the loss ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["t5", "bart", "mbart", "m2m_100"])
def test_loss_and_gradients_are_transformers_own_however_the_rows_are_cut(folders: dict[str, Path], kind: str) -> None:
    """Each micro-batch is padded by itself, and one has no row."""
    used, given = load(folders, kind).train(), context(folders)
    used(**batch(ROWS, given)).loss.backward()
    wanted = {name: weight.grad.clone() for name, weight in used.named_parameters()}
    loss = float(used(**batch(ROWS, given)).loss)
    used.zero_grad()

    objective = build(used, Config(), given)
    parts_of = [batch(some, given) for some in (ROWS[:3], ROWS[3:4], ROWS[4:], [])]
    count = sum(objective.counts(part)["tokens"] for part in parts_of)
    found = [objective(**part).terms["tokens"][0] for part in parts_of]
    assert count == sum(len(target) for _, target in ROWS) and float(found[-1]) == 0
    assert float(sum(found)) / count == pytest.approx(loss, rel=1e-12)
    (sum(found) / count).backward()
    for name, weight in used.named_parameters():
        assert torch.allclose(weight.grad, wanted[name], rtol=1e-9, atol=1e-14), name


def test_smoothing_is_the_formula_in_training_and_nothing_in_evaluation(folders: dict[str, Path]) -> None:
    used, given = load(folders, "t5"), context(folders)
    whole = batch(ROWS, given)
    with torch.no_grad():
        logs = used(**whole).logits.log_softmax(-1)
    by_hand = plain = 0.0
    for row, (_, target) in enumerate(ROWS):
        for place, token in enumerate(target):
            plain -= float(logs[row, place, token])
            by_hand -= 0.8 * float(logs[row, place, token]) + 0.2 * float(logs[row, place].mean())
    objective = build(used, Config(label_smoothing=0.2), given)
    assert float(objective.train()(**whole).terms["tokens"][0]) == pytest.approx(by_hand, rel=1e-9)
    assert float(objective.eval()(**whole).terms["tokens"][0]) == pytest.approx(plain, rel=1e-9)


def test_a_layer_that_would_be_skipped_by_chance_never_is(folders: dict[str, Path], said: list[str]) -> None:
    used = load(folders, "bart")
    assert not chance.is_in(used)
    for owner in (used.config, used.model.encoder):
        name = "encoder_layerdrop" if owner is used.config else "layerdrop"
        setattr(owner, name, 0.9)
    assert chance.is_in(used)
    objective, whole = build(used, Config(), context(folders)).train(), batch(ROWS, context(folders))
    losses = {float(objective(**whole).terms["tokens"][0]) for _ in range(8)}
    assert len(losses) == 1 and "no layer is skipped" in said[0]


# --- rows --------------------------------------------------------------------------------------------------------------


def made(
    folders: dict[str, Path], policy: str = "truncate", **example: str
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    given = context(folders, max_length=8, max_target_length=5, source_prefix="x: ")
    tools = Tools(given.processor, given.data, policy, {})
    return list(rows.rows("here:1", example, tools)), tools.counts


def test_sources_get_the_prefix_and_are_cut_apart_from_targets(folders: dict[str, Path]) -> None:
    tokenizer = context(folders).processor
    (row,), counts = made(folders, source="abcdefgh", target="ABC")
    assert tokenizer.decode(row["input_ids"]) == "x: abcd</s>" and tokenizer.decode(row["labels"]) == "ABC</s>"
    assert row["tokens"] == 12 and counts["sources truncated"] == 1 and "targets truncated" not in counts
    (row,), counts = made(folders, source="abcd", target="ABCDE")
    assert (
        tokenizer.decode(row["labels"]) == "ABCD</s>"
        and counts["targets truncated"] == 1
        and "sources truncated" not in counts
    )


@pytest.mark.parametrize(
    ("policy", "example", "message"),
    [
        ("error", {"source": "abcdefgh", "target": "A"}, "the source has 12 tokens, more than data.max_length 8"),
        ("error", {"source": "a", "target": "ABCDEFG"}, "the target has 8 tokens, more than data.max_target_length 5"),
        ("split", {"source": "a", "target": "ABCDEFG"}, "a target cannot be split"),
        ("truncate", {"source": " ", "target": "A"}, "the source is empty"),
        ("truncate", {"source": "a", "target": "\n"}, "the target is empty"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_place(
    folders: dict[str, Path], policy: str, example: Any, message: str
) -> None:
    with pytest.raises(DataError, match=f"here:1: {message}"):
        made(folders, policy, **example)


def test_what_is_too_long_is_dropped_and_counted_by_side(folders: dict[str, Path]) -> None:
    assert made(folders, "drop", source="a", target="ABCDE")[1]["rows dropped as their target is too long"] == 1
    found, counts = made(folders, "drop", source="abcdef", target="A")
    assert found == [] and counts["rows dropped as their source is too long"] == 1


def test_targets_are_tokenised_as_targets_and_those_without_an_end_are_counted() -> None:
    class TwoVocabularies:
        """Tokens of targets are greater, and nothing ends them."""

        eos_token_id = 1

        def __call__(self, text: str = "", text_target: str = "", **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [ord(c) + 1000 * bool(text_target) for c in text or text_target]}

    tools = Tools(TwoVocabularies(), Data(), "truncate", {})
    (row,) = rows.rows("here", {"source": "a", "target": "a"}, tools)
    assert (row["input_ids"], row["labels"]) == ([97], [1097])
    assert tools.counts["targets without the token that ends an answer"] == 1


# --- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["t5", "bart"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_an_answer_is_the_same_whoever_shares_its_batch(folders: dict[str, Path], kind: str, num_beams: int) -> None:
    used, given = load(folders, kind).train(), context(folders, max_length=16)
    random = torch.Generator().manual_seed(0)
    used.lm_head.weight = torch.nn.Parameter(torch.empty_like(used.lm_head.weight))  # tied, it would repeat itself
    with torch.no_grad():  # so that answers differ
        for weight in (weight for weight in used.parameters() if weight.ndim > 1):
            weight.copy_(torch.randn(weight.shape, generator=random, dtype=weight.dtype) / 2)
        used.lm_head.weight[:100] = used.lm_head.weight[126:] = 0  # letters are left
    words = ["a", "abcabc", "fedcbafed", "ca", "bbbbbbbbbb"]
    asked = answers.questions([("", {"source": word}) for word in words], given)
    together = answers.answers(used, asked, given, Generation(6, num_beams, batch_size=2))
    assert used.training and len(set(together)) > 1
    assert together == [answers.answers(used, [one], given, Generation(6, num_beams))[0] for one in asked]
    ids = given.processor(words[2], return_tensors="pt")["input_ids"]
    plain = used.eval().generate(ids, max_new_tokens=6, num_beams=num_beams, do_sample=False)[0]
    assert together[2] == given.processor.decode(plain, skip_special_tokens=True).strip()


def test_more_than_the_model_has_positions_for_is_not_asked(folders: dict[str, Path], said: list[str]) -> None:
    given = context(folders, max_length=8, source_prefix="to: ")
    used, question = load(folders, "bart"), answers.ask("abcdefgh", {}, given)
    used.generation_config.eos_token_id = None
    answers.answers(used, [question], given, Generation(1000))
    assert "answers end after 63 tokens" in said[0] and "of a source of 13 tokens the first 8 are asked" in said[1]


def test_scores_are_those_asked_for_and_the_worst_come_first() -> None:
    asked = [
        Question(f"s{i}", f"x: s{i}", reference, f"here:{i}")
        for i, reference in enumerate(["a cat", "a dog", "the bird"])
    ]
    found = metrics.scored_answers(["a cat", "a dig", "zzz"], asked, ["chrf"], "13a")
    assert set(found.values) == {"chrf"} and "nrefs:1" in found.details["notes"][0]
    assert [error["where"] for error in found.details["errors"]] == ["here:2", "here:1"]
    assert found.details["errors"][0] | {"chrf": 0} == {
        "where": "here:2",
        "input": "s2",
        "reference": "the bird",
        "predicted": "zzz",
        "chrf": 0,
    }
    assert metrics.scored_answers(["a cat"], asked[:1], ["bleu", "rouge2"], "13a").values["rouge2"] == 1.0


# --- recipes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("evaluation.bleu_tokenize=zh", "no answer is scored by its words; add bleu or rouge1"),
        ("evaluation.generate_rows=3", "no answer is scored; add bleu or chrf"),
        ("data.packing=true", "seq2seq_lm does not use it"),
        ("evaluation.bleu_tokenize=13b", "bleu_tokenize"),
    ],
)
def test_keys_that_would_do_nothing_are_refused(tmp_path: Path, word: str, message: str) -> None:
    path = tiny_tasks.make("seq2seq_lm", tmp_path)
    with pytest.raises(RecipeErrors, match=message):
        recipe.load(path, ["evaluation.metrics=[loss]", word])
    recipe.load(path, ["evaluation.metrics=[bleu]", "evaluation.bleu_tokenize=zh", "evaluation.num_beams=4"])


def test_beams_are_refused_where_nothing_is_generated(tmp_path: Path) -> None:
    path = tiny_tasks.make("text_regression", tmp_path)
    with pytest.raises(RecipeErrors, match="num_beams.*text_regression generates nothing"):
        recipe.load(path, ["evaluation.num_beams=2"])


@pytest.mark.parametrize("key", ["max_length", "max_target_length"])
def test_rows_longer_than_the_model_has_positions_for_are_refused(
    folders: dict[str, Path], tmp_path: Path, key: str, capsys
) -> None:
    path = tiny_tasks.make("seq2seq_lm", tmp_path)
    assert (
        tiny.train(path, f"model.name_or_path={folders['bart']}", f"data.{key}=65", f"output_dir={tmp_path / 'run'}")
        == 89
    )
    assert f"data.{key}: 65 is more than the 64 positions" in capsys.readouterr().err


def adapted(path: Path, *words: str) -> tuple[Any, int]:
    """A model with LoRA and one new token, and the number of that token."""
    loaded = recipe.load(path, ["method=lora", "adapter={r: 2}", "tokenizer.add_tokens=[NEW]", *words])
    task = parts.load_whole("tasks", "seq2seq_lm")
    tokenizer = processor.load(loaded, task.TRAITS)
    base = model.load(loaded, task, "fp32", tokenizer)
    return parts.load("adapters", "lora").apply(base, loaded.adapter).eval(), len(tokenizer) - 1


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_new_token_is_learned_where_encoder_decoder_and_head_see_it(
    folders: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    used, new = adapted(tiny_tasks.make("seq2seq_lm", tmp_path), f"model.name_or_path={folders[kind]}")

    @torch.no_grad()
    def logits(source: int, begun: int) -> torch.Tensor:
        return used(input_ids=torch.tensor([[5, source, 1]]), decoder_input_ids=torch.tensor([[0, begun]])).logits[
            0, -1
        ]

    before = {name: logits(*ids) for name, ids in {"encoder": (new, 6), "decoder": (6, new), "head": (6, 6)}.items()}
    (delta,) = [weight for name, weight in used.named_parameters() if "trainable_tokens_delta" in name]
    delta.data += torch.randn(
        delta.shape, generator=torch.Generator().manual_seed(0)
    )  # the same for all would not pass a norm
    for name, ids in {"encoder": (new, 6), "decoder": (6, new)}.items():
        assert (logits(*ids) - before[name])[:new].abs().max() > 1e-4, name
    assert (logits(6, 6) != before["head"]).nonzero().flatten().tolist() == [new]


@pytest.mark.parametrize("shared", [True, False])
def test_a_new_token_that_would_not_be_seen_is_refused(tmp_path: Path, shared: bool) -> None:
    """Marian holds its matrices in a way that PEFT does not follow, or has one for sources and another for targets."""
    folder = tiny_seq2seq.save(
        tmp_path / "marian", "marian", share_encoder_decoder_embeddings=shared, decoder_vocab_size=259
    )
    with pytest.raises(RecipeError, match="leave out tokenizer.add_tokens"):
        adapted(tiny_tasks.make("seq2seq_lm", tmp_path), f"model.name_or_path={folder}")


# --- the whole way -----------------------------------------------------------------------------------------------------


def test_the_export_of_an_adapter_answers_as_the_run_did(tmp_path: Path, capsys) -> None:
    import peft

    from launcher.__main__ import main

    path, run = tiny_tasks.make("seq2seq_lm", tmp_path), tmp_path / "run"
    words = [
        "method=lora",
        "adapter={r: 4}",
        "optimizer.learning_rate=0.1",
        "data.source_prefix='turn: '",
        "data.max_length=24",
    ]
    assert tiny.train(path, f"output_dir={run}", *words) == 0
    samples = json.loads((run / "samples.json").read_text())
    eval_rows = [json.loads(line) for line in (tmp_path / "eval.jsonl").read_text().splitlines()]
    assert [sample["prompt"] for sample in samples] == [eval_rows[i]["source"] for i in (0, 1, 3)]
    assert all(sample["reference"] == sample["prompt"][::-1].upper() for sample in samples)
    assert any(sample["base"] != sample["tuned"] for sample in samples)
    assert "chrf" in json.loads((run / "evaluation.json").read_text())["errors"][0]

    capsys.readouterr()
    assert main(["predict", str(run), str(tmp_path / "eval.jsonl"), "abc"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["input"] for one in said] == [*(row["source"] for row in eval_rows), "abc"]
    assert [said[i]["output"] for i in (0, 1, 3)] == [sample["tuned"] for sample in samples]

    plain = peft.AutoPeftModelForSeq2SeqLM.from_pretrained(run / "export").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "export")
    for one in said:
        ids = tokenizer("turn: " + one["input"], return_tensors="pt")["input_ids"][:, :24]
        text = tokenizer.decode(plain.generate(input_ids=ids, max_new_tokens=12)[0], skip_special_tokens=True)
        assert text.strip() == one["output"]


def test_a_row_without_a_target_is_predicted_and_one_without_a_source_is_named(folders: dict[str, Path]) -> None:
    given = context(folders, source_prefix="x: ")
    found = answers.questions([("a:1", {"source": "ab"}), ("a:2", {"source": " "})], given)
    assert found == [Question("ab", "x: ab", "", "a:1")]
    assert answers.ask("ab", {}, given).prompt == "x: ab"


def test_only_rows_that_are_kept_are_asked(tmp_path: Path) -> None:
    recipe = tiny_tasks.make("seq2seq_lm", tmp_path)
    pairs = [("a b", "c d"), ("a " * 90, "x"), ("b", " "), ("e f", "g")]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"source": a, "target": b}) + "\n" for a, b in pairs))
    words = [f"data.eval=[{{path: {rows}}}]", "data.on_truncate=drop", "data.on_error=skip", "training.max_steps=1"]
    assert tiny.train(recipe, f"output_dir={tmp_path / 'run'}", *words) == 0
    errors = json.loads((tmp_path / "run" / "evaluation.json").read_text())["errors"]
    assert sorted(error["reference"] for error in errors) == ["c d", "g"]


def test_a_model_from_a_mapping_begins_answers_with_the_padding_token() -> None:
    shape = {"model_type": "t5", "d_model": 8, "d_kv": 4, "num_heads": 2, "num_layers": 1, "vocab_size": 20}
    assert model.config_from(shape).decoder_start_token_id == 0
    assert model.config_from({**shape, "decoder_start_token_id": 3}).decoder_start_token_id == 3
