"""R-Drop against its paper's formula in PyTorch's own words; mixup and CutMix against losses of soft targets."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_tasks
import torch
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from launcher import recipe as recipes
from launcher.data.context import Context
from launcher.data.labels import Labels
from launcher.errors import RecipeError
from launcher.objectives import classification
from launcher.objectives.mixing import Mixing, Partners
from launcher.objectives.options import Classification
from launcher.schema import Data
from launcher.tasks import causal_lm, seq2seq_lm
from launcher.tasks.causal_lm import objective as continuing
from launcher.tasks.seq2seq_lm import objective as writing
from launcher.tasks.token_classification import objective as tagging

SINGLE, SEVERAL = "single_label_classification", "multi_label_classification"
NAMES = ("a", "b", "c")
ALPHA = 0.7


def context(kind: str) -> Context:
    return Context(None, Data(), labels=Labels.listed(NAMES), label_counts=(2, 1, 3), head={"problem_type": kind})


def bert(made: Any, dropout: float = 0.3, **head: Any) -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return (
        made(BertConfig(vocab_size=30, num_labels=3, initializer_range=0.3, **sizes, **drop, **head)).double().train()
    )


def ids(rows: int) -> dict[str, torch.Tensor]:
    found = torch.randint(0, 30, (rows, 5), generator=torch.Generator().manual_seed(1))
    return {"input_ids": found, "attention_mask": torch.ones_like(found)}


def two_passes(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)
    return model(**{name: torch.cat([t, t]) for name, t in inputs.items()}).logits.chunk(2)


def of_the_objective(objective: Any, batch: dict[str, torch.Tensor]) -> float:
    torch.manual_seed(5)
    loss = objective.train()(**batch)
    counts = objective.counts(batch)
    assert {name: term[1] for name, term in loss.terms.items()} == counts
    return float(sum(weight * total / count for total, count, weight in loss.terms.values()))


def kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """KL(first, second) of each row."""
    return functional.kl_div(second.log_softmax(-1), first.softmax(-1), reduction="none").sum(-1)


def test_r_drop_of_one_label_is_half_the_papers_loss() -> None:
    model, inputs, labels = bert(BertForSequenceClassification), ids(6), torch.tensor([0, 2, 2, 1, 2, 0])
    one, two = two_passes(model, inputs)
    likelihood = functional.cross_entropy(one, labels) + functional.cross_entropy(two, labels)
    paper = likelihood + ALPHA / 2 * (kl(one, two) + kl(two, one)).mean()
    assert float((kl(one, two) + kl(two, one)).mean().detach()) > 1e-3
    objective = classification.build(model, Classification(r_drop_alpha=ALPHA), context(SINGLE)).double()
    assert of_the_objective(objective, inputs | {"labels": labels}) == pytest.approx(float(paper) / 2, rel=1e-9)


def test_r_drop_of_several_labels_takes_each_as_a_coin() -> None:
    model, inputs = bert(BertForSequenceClassification, problem_type=SEVERAL), ids(3)
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]]).double()
    one, two = two_passes(model, inputs)
    coins = [torch.distributions.Bernoulli(logits=logits) for logits in (one, two)]
    apart = sum(torch.distributions.kl_divergence(*pair).sum(-1).mean() for pair in (coins, coins[::-1]))
    both = sum(functional.binary_cross_entropy_with_logits(logits, labels) for logits in (one, two))
    objective = classification.build(model, Classification(r_drop_alpha=ALPHA), context(SEVERAL)).double()
    wanted = float(both + ALPHA / 2 * apart) / 2
    assert of_the_objective(objective, inputs | {"labels": labels}) == pytest.approx(wanted, rel=1e-9)


def test_r_drop_of_words_leaves_out_what_is_none() -> None:
    model, inputs = bert(BertForTokenClassification), ids(2)
    labels = torch.tensor([[-100, 0, 2, 1, -100], [-100, 1, -100, -100, -100]])
    one, two = two_passes(model, inputs)
    known = labels != -100
    apart = (kl(one, two) + kl(two, one))[known].mean()
    both = sum(functional.cross_entropy(logits[known], labels[known]) for logits in (one, two))
    objective = tagging.build(model, Classification(r_drop_alpha=ALPHA), context(SINGLE)).double()
    batch = inputs | {"labels": labels, "is_word": known.int()}
    assert of_the_objective(objective, batch) == pytest.approx(float(both + ALPHA / 2 * apart) / 2, rel=1e-9)


LANGUAGE = {"vocab_size": 30, "eos_token_id": 1, "pad_token_id": 0}
LLAMA = LlamaConfig(
    **LANGUAGE, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, attention_dropout=0.3
)
T5 = T5Config(
    **LANGUAGE, d_model=16, d_ff=24, d_kv=8, num_layers=1, num_heads=2, dropout_rate=0.3, decoder_start_token_id=0
)


def of_language(model: Any, smoothing: float) -> tuple[Any, dict[str, torch.Tensor], Callable[..., torch.Tensor]]:
    """The objective, its batch, and the logits of (rows, tokens) that a batch without labels has."""
    torch.manual_seed(0)
    model = model.double().train()
    labels = torch.tensor([[-100, 3, 4, 5, 1], [7, 2, -100, -100, -100]])
    if model.config.is_encoder_decoder:
        options = seq2seq_lm.Config(r_drop_alpha=ALPHA, label_smoothing=smoothing)
        objective = writing.build(model, options, Context(None, Data()))

        def logits(**inputs: torch.Tensor) -> torch.Tensor:
            return model(**inputs, decoder_input_ids=model._shift_right(torch.cat([labels, labels]))).logits
    else:
        options = causal_lm.Config(r_drop_alpha=ALPHA, label_smoothing=smoothing)
        objective = continuing.build(model, options, Context(None, Data()))

        def logits(**inputs: torch.Tensor) -> torch.Tensor:
            return model(**inputs).logits

    return objective.double(), ids(2) | {"labels": labels}, logits


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("made", [partial(LlamaForCausalLM, LLAMA), partial(T5ForConditionalGeneration, T5)])
def test_r_drop_of_language_is_half_the_papers_loss_of_each_token(made: Any, smoothing: float) -> None:
    objective, batch, logits = of_language(made(), smoothing)
    labels, inputs = batch["labels"], ids(2)
    torch.manual_seed(5)
    one, two = logits(**{name: torch.cat([t, t]) for name, t in inputs.items()}).chunk(2)
    known = labels != -100
    apart = (kl(one, two) + kl(two, one))[known].mean()
    assert float(apart.detach()) > 1e-4
    both = sum(functional.cross_entropy(half[known], labels[known], label_smoothing=smoothing) for half in (one, two))
    assert of_the_objective(objective, batch) == pytest.approx(float(both + ALPHA / 2 * apart) / 2, rel=1e-9)
    nothing = objective(**batch | {"labels": torch.full_like(labels, -100)})
    assert all(float(total) == float(count) == 0 for total, count, _ in nothing.terms.values())
    objective.eval()
    assert set(objective(**batch).terms) == set(objective.counts(batch)) == {"tokens"}


def test_the_fused_loss_and_r_drop_exclude_each_other() -> None:
    with pytest.raises(RecipeError, match="fused cannot be used: R-Drop compares all probabilities"):
        continuing.plan_loss(
            LlamaForCausalLM(LLAMA), causal_lm.Config(implementation="fused", r_drop_alpha=1.0), "full"
        )


def test_without_a_label_there_is_nothing_to_be_apart_and_evaluation_goes_once() -> None:
    model, labels = bert(BertForSequenceClassification), torch.tensor([-100])
    objective = classification.build(model, Classification(r_drop_alpha=ALPHA), context(SINGLE)).double()
    loss = objective(**ids(1), labels=labels)
    assert all(float(total) == count == 0 for total, count, _ in loss.terms.values())
    objective.eval()
    assert set(objective(**ids(1), labels=labels).terms) == set(objective.counts({"labels": labels})) == {"labels"}


def test_r_drop_needs_dropout() -> None:
    model = bert(BertForSequenceClassification, dropout=0.0)
    with pytest.raises(RecipeError, match="r_drop_alpha: this model drops nothing out"):
        classification.plan_loss(model, Classification(r_drop_alpha=ALPHA), "full")


@pytest.mark.parametrize("cuts", [False, True])
def test_each_picture_is_its_own_by_its_share_and_its_partners_for_the_rest(cuts: bool) -> None:
    pixels = torch.rand(6, 3, 10, 14, dtype=torch.float64)
    mixing = Mixing(cutmix_alpha=1.0) if cuts else Mixing(mixup_alpha=1.0)
    for seed in range(20):
        torch.manual_seed(seed)
        inputs, (rows, share) = mixing({"pixel_values": pixels, "other": pixels})
        assert sorted(rows.tolist()) == list(range(6)) and inputs["other"] is pixels
        mixed, others = inputs["pixel_values"], pixels[rows]
        if not cuts:
            torch.testing.assert_close(mixed, share * pixels + (1 - share) * others)
            continue
        moved = rows != torch.arange(6)
        own = (mixed == pixels).all(1)
        assert torch.where(own[:, None], pixels, others).equal(mixed)
        torch.testing.assert_close(own[moved].double().mean((1, 2)), torch.full((int(moved.sum()),), share).double())


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_are_those_of_a_beta_distribution(alpha: float) -> None:
    torch.manual_seed(0)
    mixing, pixels = Mixing(mixup_alpha=alpha), {"pixel_values": torch.zeros(1, 1, 1, 1)}
    shares = torch.tensor([mixing(pixels)[1].share for _ in range(2000)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert float(shares.mean()) == pytest.approx(0.5, abs=4 * (variance / 2000) ** 0.5)
    assert float(shares.var()) == pytest.approx(variance, rel=0.1)


def test_with_both_some_batches_are_cut_and_some_are_added() -> None:
    torch.manual_seed(0)
    mixing, pixels = Mixing(1.0, 1.0), torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    whole = [
        bool(((found := mixing({"pixel_values": pixels})[0]["pixel_values"]) == found.round()).all()) for _ in range(60)
    ]
    assert 15 < sum(whole) < 55  # those that are cut, or whose pictures stay with themselves


@pytest.mark.parametrize("options", [Classification(), Classification(label_smoothing=0.1, class_weights={"a": 3.0})])
def test_the_loss_of_mixed_rows_is_that_of_soft_targets(
    options: Classification, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Model(torch.nn.Module):
        config = BertConfig()
        dtype = torch.float64

        def forward(self, pixel_values: torch.Tensor) -> Any:
            return type("Output", (), {"logits": pixel_values.flatten(1)[:, :3]})

    labels, rows, share = torch.tensor([0, 2, 2, 1]), torch.tensor([1, 3, 2, 0]), 0.3
    pixels = torch.rand(4, 1, 2, 2, dtype=torch.float64)
    mixed = share * pixels + (1 - share) * pixels[rows]
    monkeypatch.setattr(Mixing, "__call__", lambda self, inputs: ({"pixel_values": mixed}, Partners(rows, share)))
    objective = classification.build(Model(), options, context(SINGLE), mixing=Mixing(1.0)).double().train()
    logits = mixed.flatten(1)[:, :3]
    weight = torch.tensor([3.0 if options.class_weights else 1.0, 1.0, 1.0]).double()
    each = [
        functional.cross_entropy(logits, wanted, weight, label_smoothing=options.label_smoothing, reduction="sum")
        for wanted in (labels, labels[rows])
    ]
    total, count, _ = objective(pixel_values=pixels, labels=labels).terms["labels"]
    assert float(total) == pytest.approx(float(share * each[0] + (1 - share) * each[1]), rel=1e-9)
    soft = share * functional.one_hot(labels, 3).double() + (1 - share) * functional.one_hot(labels[rows], 3).double()
    if not options.class_weights:
        assert float(total) == pytest.approx(float(functional.cross_entropy(logits, soft, reduction="sum")), rel=1e-9)
    assert count == objective.counts({"labels": labels})["labels"] == float(weight[labels].sum())


@pytest.mark.parametrize(
    ("task", "words", "said"),
    [
        ("text_classification", ["loss.r_drop_alpha=1.0", "regularization.dropout=0.2"], "R-Drop with alpha 1"),
        (
            "seq2seq_lm",
            ["loss={r_drop_alpha: 1.0, label_smoothing: 0.1}", "regularization.dropout=0.2"],
            "cross-entropy, label smoothing 0.1, R-Drop with alpha 1",
        ),
        (
            "causal_lm",
            [
                "loss={r_drop_alpha: 1.0, label_smoothing: 0.1}",
                "regularization.dropout=0.2",
                "method=full",
                "adapter=null",
            ],
            "torch, label smoothing 0.1, R-Drop with alpha 1",
        ),
        ("causal_lm", ["loss.label_smoothing=0.1"], "fused, label smoothing 0.1"),
        (
            "image_classification",
            ["loss={mixup_alpha: 0.5, cutmix_alpha: 1.0}"],
            "Mixup with alpha 0.5, CutMix with alpha 1",
        ),
    ],
)
def test_two_processes_train_what_one_does(tmp_path: Path, task: str, words: list[str], said: str) -> None:
    recipe = tiny.make(tmp_path) if task == "causal_lm" else tiny_tasks.make(task, tmp_path)
    words = [
        *words,
        "training={global_batch_size: 8, per_device_train_batch_size: 2, max_steps: 3}",
        "logging.logging_steps=1",
    ]
    for world in (1, 2):
        log = tmp_path / f"{world}.log"
        ranks = tiny.Ranks(world, ["train", str(recipe), *words, f"output_dir={tmp_path / str(world)}"], log)
        assert ranks.wait() == [0] * world, log.read_text()
    one, two = tiny.losses(tmp_path / "1"), tiny.losses(tmp_path / "2")
    assert two == pytest.approx(one, rel=1e-5)
    plan = json.loads((tmp_path / "1" / "plan.json").read_text())["values"]
    assert said in plan["loss"]["value"]
    assert ("mixed rows" in plan["same_result"]["value"]) is (task == "image_classification")


def test_one_row_cannot_be_mixed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    recipe = tiny_tasks.make("image_classification", tmp_path)
    words = ["loss.mixup_alpha=0.2", "training.per_device_train_batch_size=1"]
    assert tiny.train(recipe, *words) == 89
    assert "mixes rows of a micro-batch, and per_device_train_batch_size is 1" in capsys.readouterr().err


def test_texts_are_not_mixed(tmp_path: Path) -> None:
    with pytest.raises(recipes.RecipeErrors, match="loss.mixup_alpha"):
        recipes.load(tiny_tasks.make("text_classification", tmp_path), ["loss.mixup_alpha=0.2"])
