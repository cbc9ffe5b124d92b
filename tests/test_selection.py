"""Parts of a model by name: on families whose modules are called differently, with and without an adapter."""

from types import SimpleNamespace
from typing import Any

import pytest
import transformers

from launcher import selection
from launcher.errors import RecipeError

SMALL = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2}
# auto class, configuration, names of all parameters of the head and of the embeddings (as prefixes), layers
FAMILIES: dict[str, tuple[str, dict[str, Any], set[str], set[str], int]] = {
    "bert": (
        "AutoModelForSequenceClassification",
        {**SMALL, "vocab_size": 16},
        {"classifier"},
        {"bert.embeddings"},
        3,
    ),
    "llama": (
        "AutoModelForCausalLM",
        {**SMALL, "vocab_size": 16, "num_key_value_heads": 2},
        {"lm_head"},
        {"model.embed_tokens"},
        3,
    ),
    "gpt2": (
        "AutoModelForCausalLM",
        {"n_embd": 8, "n_layer": 3, "n_head": 2, "vocab_size": 16, "tie_word_embeddings": False},
        {"lm_head"},
        {"transformer.wte", "transformer.wpe"},
        3,
    ),
    "t5": (
        "AutoModelForSeq2SeqLM",
        {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_heads": 2, "num_layers": 2, "vocab_size": 16},
        {"shared"},  # tied
        {"shared"},
        4,
    ),
    "vit": (
        "AutoModelForImageClassification",
        {**SMALL, "image_size": 8, "patch_size": 4},
        {"classifier"},
        {"vit.embeddings"},
        3,
    ),
}


def build(family: str) -> Any:
    auto_class, shape, *_ = FAMILIES[family]
    model = getattr(transformers, auto_class).from_config(transformers.AutoConfig.for_model(family, **shape))
    model.head_modules = ()
    return model


def under(model: Any, prefixes: set[str]) -> set[str]:
    names = {name for name, _ in model.named_parameters()}
    return {name for name in names if any(name.startswith(f"{prefix}.") for prefix in prefixes)}


@pytest.mark.parametrize("family", FAMILIES)
def test_head_embeddings_and_layers_are_what_they_are_called_in_each_family(family: str) -> None:
    model = build(family)
    _, _, head, embeddings, layers = FAMILIES[family]
    assert selection.select(model, ["head"], "") == under(model, head)
    assert selection.select(model, ["embeddings"], "") == under(model, embeddings)
    one_by_one = [selection.select(model, [f"layers[{n}]"], "") for n in range(layers)]
    assert not set.intersection(*one_by_one)
    assert (
        set.union(*one_by_one) == selection.select(model, ["layers"], "") == selection.select(model, ["layers[:]"], "")
    )
    assert one_by_one[-1] == selection.select(model, ["layers[-1]"], "") == selection.select(model, ["layers[-1:]"], "")
    assert one_by_one[0] | one_by_one[1] == selection.select(model, ["layers[:2]"], "")
    with pytest.raises(RecipeError, match="selects no parameter"):
        selection.select(model, [f"layers[{layers}]"], "")


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_hold_every_parameter_once(family: str) -> None:
    model = build(family)
    groups = selection.groups(model)
    assert len(groups) == FAMILIES[family][4] + 2
    assert sorted(name for group in groups for name in group) == sorted(name for name, _ in model.named_parameters())
    assert selection.select(model, ["head"], "") <= groups[-1] | groups[0]


def test_a_pattern_means_names_and_a_word_that_means_nothing_says_what_there_is() -> None:
    model = build("bert")
    assert selection.select(model, ["*.LayerNorm.*"], "") == {
        n for n, _ in model.named_parameters() if ".LayerNorm." in n
    }
    with pytest.raises(RecipeError, match=r"embedings selects no parameter.*did you mean embeddings\?.*layers\[2\]"):
        selection.select(model, ["embedings"], "here")


@pytest.mark.parametrize("slice_of", ["layers[:4]", "layers[-4:]", "layers[1:9]"])
def test_a_slice_that_reaches_beyond_the_layers_was_meant_for_another_model(slice_of: str) -> None:
    model = build("bert")
    assert len(selection.select(model, ["layers[-3:3]"], "")) == len(selection.select(model, ["layers"], ""))
    with pytest.raises(RecipeError, match=r"reaches beyond the layers of this model.*layers\[0\] to layers\[2\]"):
        selection.select(model, [slice_of], "")


def recipe(trainable: Any = None, freeze: Any = ()) -> Any:
    return SimpleNamespace(trainable=trainable, freeze=freeze, method="full", origin=lambda key: f"at {key}")


def trained(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_freeze_wins_over_trainable_and_neither_trains_what_the_method_does_not() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(build("bert"), LoraConfig(r=2, target_modules="all-linear", modules_to_save=["classifier"]))
    before = trained(model)
    selection.settle(model, recipe(("head", "layers"), ("layers[:2]",)))
    kept = trained(model)
    assert kept == {n for n in before if ".layer.2." in n or "classifier" in n and "modules_to_save" in n}
    assert any("lora_A" in name for name in kept)


def test_a_recipe_that_leaves_nothing_to_train_is_refused() -> None:
    with pytest.raises(RecipeError, match="freeze: nothing that method: full trains is left"):
        selection.settle(build("bert"), recipe(freeze=("*",)))
