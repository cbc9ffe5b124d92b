"""New rows of the vocabulary are trained and saved, in the embedding and in the head, tied or not."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from adapted import NEW, adapt, base, export, grown, load, loaded, logits, merged, save, train
from tasks.families import VOCABULARY, assert_same, loss_and_gradients
from torch import nn

from launcher import heads, model, parts, processor, proof, recipe, token_rows
from launcher.errors import RecipeError, RecipeErrors
from launcher.recipe import load as load_recipe
from launcher.tasks.causal_lm.objective import Objective

TASK = parts.load_whole("tasks", "causal_lm")
KNOWN = (3, 40)  # tokens of the base that are trained as well
WAYS = {
    "rows": {},
    "copies": {"modules_to_save": ("EMBEDDING", "lm_head")},
    "a copy": {"modules_to_save": ("lm_head",)},
}
# llama: two matrices or one; gemma: one, and an embedding that scales; gpt2: one, under other names than PEFT knows
FAMILIES = [("llama", False), ("llama", True), ("gemma3_text", True), ("gpt2", True)]


def options_of(way: str, family: str) -> dict:
    name = "wte" if family == "gpt2" else "embed_tokens"
    return {key: tuple(v.replace("EMBEDDING", name) for v in values) for key, values in WAYS[way].items()}


def matrices(model) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model looks up and what it multiplies with, as they are now."""
    under = model.get_base_model() if hasattr(model, "get_base_model") else model
    width = under.config.get_text_config().hidden_size
    embedding, head = under.get_input_embeddings(), under.get_output_embeddings()
    with torch.no_grad():
        rows = embedding(torch.arange(VOCABULARY + NEW))
        return rows, head(torch.eye(width, dtype=rows.dtype)).T


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("family", "tied"), FAMILIES)
def test_new_rows_are_trained_saved_and_merged(family: str, tied: bool, way: str, tmp_path: Path) -> None:
    def trained():
        return train(adapt(grown(family, KNOWN, tie_word_embeddings=tied), **options_of(way, family)))

    start = matrices(adapt(grown(family, KNOWN, tie_word_embeddings=tied), **options_of(way, family)))
    ours = trained()
    for before, after in zip(start, matrices(ours), strict=True):
        moved = (before != after).any(1).nonzero().flatten().tolist()
        assert set(range(VOCABULARY, VOCABULARY + NEW)) <= set(moved)
        if way == "rows":  # and no others; token 40 is not in the text, so only a head moves it
            assert set(moved) <= {*KNOWN, *range(VOCABULARY, VOCABULARY + NEW)}
    expected = logits(ours)
    tolerance = 1e-5 * float(expected.abs().max())
    somebodys = base(family, tie_word_embeddings=tied)
    proof.grow(somebodys, VOCABULARY + NEW)
    read = loaded(ours, somebodys, tmp_path / "adapter")
    assert proof.fingerprints(read) == proof.fingerprints(ours)
    torch.testing.assert_close(logits(read), expected, rtol=0, atol=tolerance)
    whole = merged(trained(), tmp_path / "merged")
    torch.testing.assert_close(logits(whole), expected, rtol=0, atol=tolerance)
    assert whole.config.get_text_config().vocab_size == VOCABULARY + NEW


@pytest.mark.parametrize("way", ["rows", "copies"])
@pytest.mark.parametrize(("family", "tied"), FAMILIES)
def test_tied_matrices_stay_one(family: str, tied: bool, way: str) -> None:
    ours = train(adapt(grown(family, KNOWN, tie_word_embeddings=tied), **options_of(way, family)))
    embedding, head = matrices(ours)
    scale = 32**0.5 if family == "gemma3_text" else 1.0
    assert torch.allclose(embedding / scale, head, atol=1e-5) is tied


@pytest.mark.parametrize(("family", "tied"), FAMILIES)
def test_a_new_row_begins_at_the_mean_of_the_known_ones(family: str, tied: bool) -> None:
    """And is zero in the base, where nobody else would find another value."""
    for way in WAYS:
        ours = adapt(grown(family, tie_word_embeddings=tied), **options_of(way, family))
        for matrix in matrices(ours):
            mean = matrix[:VOCABULARY].mean(0).expand(NEW, -1)
            torch.testing.assert_close(matrix[VOCABULARY:], mean, rtol=1e-4, atol=1e-5)
        with ours.disable_adapter():
            assert not matrices(ours)[1][VOCABULARY:].any()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("family", "tied"), FAMILIES)
def test_the_fused_loss_sees_the_trained_rows(family: str, tied: bool, way: str) -> None:
    """Loss and every gradient as with the plain loss."""
    ours = train(adapt(grown(family, KNOWN, tie_word_embeddings=tied), **options_of(way, family)), steps=1)
    torch.manual_seed(4)
    ids = torch.randint(1, VOCABULARY + NEW, (3, 9))
    batch = {"input_ids": ids, "labels": ids.roll(-1, 1), "attention_mask": torch.ones_like(ids)}
    fused, plain = Objective(ours, "fused"), Objective(ours, "torch")
    assert_same(loss_and_gradients(fused, batch), loss_and_gradients(plain, batch))
    assert ("trained rows" if way == "rows" else "copy") in fused.reason


def test_rows_that_are_switched_off_or_merged() -> None:
    ours = train(adapt(grown(trained=KNOWN)))
    under = ours.get_base_model()
    with ours.disable_adapter():
        head, _ = heads.resolve(under)
        assert head.rows is None
    assert heads.resolve(under)[0].rows.numbers == (*KNOWN, *range(VOCABULARY, VOCABULARY + NEW))
    under.lm_head.token_adapter.merge()
    assert heads.resolve(under) == (None, "the output head has trained rows merged into it")


@pytest.mark.parametrize("way", WAYS)
def test_checkpoints_hold_the_rows(way: str, tmp_path: Path) -> None:
    for tied in (False, True):
        ours = train(adapt(grown(trained=KNOWN, tie_word_embeddings=tied), **options_of(way, "llama")))
        save(ours, tmp_path / f"{tied}")
        other = adapt(grown(trained=KNOWN, tie_word_embeddings=tied), seed=7, **options_of(way, "llama"))
        load(other, tmp_path / f"{tied}")
        assert torch.equal(logits(other), logits(ours))


def test_copies_beside_a_bf16_base_learn_in_fp32(tmp_path: Path) -> None:
    """Steps below the spacing of bf16 add up, and what is written has the type of the base."""
    for tied in (False, True):
        base_in = {"dtype": torch.bfloat16, "tie_word_embeddings": tied}
        ours = adapt(grown(**base_in), modules_to_save=("embed_tokens", "lm_head", "norm"))
        copies = {n: p for n, p in ours.named_parameters() if "modules_to_save" in n}
        assert len(copies) == 2 + (not tied) and all(p.dtype == torch.float32 for p in copies.values())
        assert ours.get_base_model().model(input_ids=torch.tensor([[1, 2]])).last_hidden_state.dtype == torch.bfloat16
        copy = next(iter(copies.values()))
        for _ in range(64):
            copy.data.add_(2.0**-12)
        assert copy.dtype == torch.float32
        expected = logits(train(ours, steps=1))
        somebodys = base(**base_in)
        proof.grow(somebodys, VOCABULARY + NEW)
        read = loaded(ours, somebodys, tmp_path / str(tied))
        assert proof.fingerprints(read) == proof.fingerprints(ours)
        torch.testing.assert_close(logits(read), expected, rtol=0, atol=2e-2 * float(expected.abs().max()))


def test_a_head_with_a_bias_has_no_rows_of_its_own() -> None:
    """PEFT would leave the bias out."""
    with pytest.raises(RecipeError, match="single rows of a Linear cannot be trained.*modules_to_save"):
        adapt(grown("phi"))
    assert adapt(grown("phi"), modules_to_save=("embed_tokens", "lm_head")) is not None


@pytest.mark.parametrize("kind", ["ViT", "Bert"])
def test_models_without_a_vocabulary_or_without_its_head_have_no_rows_to_train(kind: str) -> None:
    import transformers

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    made = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**shape))
    assert token_rows.of(made).trained == () and not token_rows.tied(made)
    assert token_rows.peft_options(made, ()) == {"modules_to_save": None, "trainable_token_indices": None}


def test_lora_and_rows_on_one_matrix_are_refused() -> None:
    with pytest.raises(RecipeError, match="LoRA on a matrix whose single rows.*adapter.target_modules"):
        adapt(grown(), target_modules=("q_proj", "lm_head"))


# what the recipe asks for


def made_from(path: Path, *words: str):
    loaded_recipe = recipe.load(path, words)
    tokenizer = processor.load_tokenizer(loaded_recipe)
    return model.load(loaded_recipe, TASK, "fp32", tokenizer), tokenizer, loaded_recipe


ADDED = "tokenizer.add_tokens=[" + ", ".join(f"new{i}" for i in range(20)) + "]"  # the base has rows for 7 of them


def test_added_tokens_are_found_wherever_their_rows_are(recipe: Path) -> None:
    made, tokenizer, _ = made_from(recipe, ADDED, "adapter.trainable_tokens=[cat]")
    added = [tokenizer.convert_tokens_to_ids(f"new{i}") for i in range(20)]
    assert made.token_rows == token_rows.TokenRows(32, (tokenizer.convert_tokens_to_ids("cat"), *added))
    assert (min(added), max(added)) == (25, 44) and made.get_input_embeddings().weight.shape[0] == 45
    assert not made.get_input_embeddings().weight[32:].any() and not made.lm_head.weight[32:].any()


def test_under_method_full_new_rows_begin_at_the_mean(recipe: Path) -> None:
    made, _, _ = made_from(recipe, ADDED, "method=full", "adapter=null")
    for matrix in (made.get_input_embeddings().weight, made.lm_head.weight):
        torch.testing.assert_close(matrix[32:], matrix[:32].mean(0).expand(13, -1))


def test_a_token_that_nobody_knows_is_named(recipe: Path) -> None:
    with pytest.raises(RecipeError, match="trainable_tokens: 'unicorn' is no token .*tokenizer.add_tokens"):
        made_from(recipe, "adapter.trainable_tokens=[unicorn]")


def test_a_method_that_trains_no_rows_is_refused(recipe: Path) -> None:
    """A plug-in, for example."""
    made, tokenizer, loaded_recipe = made_from(recipe)
    other = SimpleNamespace(
        method="other", adapter=loaded_recipe.checkpoint, tokenizer=SimpleNamespace(add_tokens=("cat",))
    )
    with pytest.raises(RecipeError, match="1 tokens of the vocabulary must be learned, and method other trains none"):
        token_rows.fit(made, other, tokenizer)


def test_zero3_is_refused_for_single_rows(recipe: Path) -> None:
    """By the recipe alone; method full trains the whole matrix."""
    zero3 = "distributed.strategy=zero3"
    for words in ([ADDED], ["adapter.trainable_tokens=[cat]"]):
        with pytest.raises(
            RecipeErrors, match="zero3: PEFT reads single rows of a matrix past ZeRO's sharding.*use zero2"
        ):
            load_recipe(recipe, [*words, zero3])
        load_recipe(recipe, [*words, "distributed.strategy=zero2"])
    load_recipe(recipe, [ADDED, "method=full", "adapter=null", zero3])


def test_the_plan_counts_the_rows(recipe: Path) -> None:
    """Two matrices of width 32, on a model without storage, as on the real one."""
    from launcher import parts

    for words in ([], ["adapter.init_lora_weights=pissa"], ["adapter.modules_to_save=[embed_tokens, lm_head]"]):
        made, tokenizer, loaded_recipe = made_from(recipe, ADDED, *words)
        facts = model.facts(loaded_recipe, TASK, parts.load("adapters", "lora"), tokenizer)
        real = parts.load("adapters", "lora").apply(made, loaded_recipe.adapter)
        assert facts.trainable == sum(p.numel() for p in real.parameters() if p.requires_grad)
        assert facts.parameters == sum(p.numel() for p in real.parameters())
        assert facts.loss == Objective(real, "auto").implementation == "fused"
        assert sorted((weight.shape, weight.hidden) for weight in facts.weights if weight.trained) == sorted(
            (tuple(p.shape), p.ndim == 2 and "layers" in n) for n, p in real.named_parameters() if p.requires_grad
        )


def test_a_run_with_new_tokens_is_proven(recipe: Path, tmp_path: Path) -> None:
    """The whole way on a tied model whose answers hold the new tokens: export, a fresh process, resume."""
    tiny.save_tokenizer(tmp_path / "model")
    tiny.save_model(tmp_path / "model", tie_word_embeddings=True)
    words = tiny.WORDS[:8] + [f"new{i}" for i in range(20)]
    rows = [{"prompt": " ".join(words[i : i + 4]), "completion": " ".join(words[i + 4 : i + 9])} for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    run = tmp_path / "run"
    shared = [f"model.name_or_path={tmp_path / 'model'}", f"data.train.0.path={tmp_path / 'rows.jsonl'}", ADDED,
              "evaluation.metrics=[loss]", "checkpoint.save_steps=3"]  # fmt: skip
    assert tiny.train(recipe, *shared, f"output_dir={run}", "export.verify=true") == 0
    verdict = json.loads((run / "proof" / "verdict.json").read_text())
    assert verdict["ok"] and verdict["largest_logit_difference"] < 1e-5
    whole = (run / "export" / "adapter_model.safetensors").read_bytes()
    assert tiny.train(recipe, *shared, "--resume", str(run / "checkpoints" / "step-00000003")) == 0
    assert (run / "export" / "adapter_model.safetensors").read_bytes() == whole


def test_peft_as_a_user_has_it_resizes_by_the_tokenizer(tmp_path: Path) -> None:
    """Its Auto class makes new rows at random, and the adapter's take their place."""
    import peft

    tiny.save_tokenizer(tmp_path / "base")
    tiny.save_model(tmp_path / "base")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    tokenizer.add_tokens([f"new{i}" for i in range(20)])
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    token_rows.fit(made, SimpleNamespace(
        method="lora", tokenizer=SimpleNamespace(add_tokens=()), adapter=parts.load("adapters", "lora").Config()
    ), tokenizer)  # fmt: skip
    ours = adapt(made)
    with torch.no_grad():
        for parameter in (p for p in ours.parameters() if p.requires_grad):
            nn.init.normal_(parameter, std=0.1)
    ids = torch.arange(45).view(1, -1)
    expected = ours.eval()(input_ids=ids).logits
    export(parts.load("adapters", "lora").plain(ours), tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(theirs.eval()(input_ids=ids).logits, expected, rtol=0, atol=1e-5)


def test_a_copy_in_fp32_takes_and_gives_the_types_of_its_base_inside_lists_too() -> None:
    """Heads of segmentation take the states of several layers as a tuple, and some give several things back."""

    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)

        def forward(self, states: tuple, *, more: dict) -> list:
            return [self.linear(states[0] + more["states"][0]), states[1]]

    base_head, copy = Head().bfloat16(), Head()
    token_rows._keep_in_fp32(copy, base_head)
    state = torch.ones(1, 2, dtype=torch.bfloat16)
    summed, numbers = copy((state, torch.tensor([7])), more={"states": [state]})
    assert (summed.dtype, numbers.dtype, copy.linear.weight.dtype) == (torch.bfloat16, torch.int64, torch.float32)
