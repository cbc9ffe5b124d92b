"""How trained parameters are grouped: decay, dtype, LoRA+, and what counts as a matrix inside the model."""

from types import SimpleNamespace

import pytest
import torch
from adapted import adapt, base, grown

from launcher import param_groups, parts
from launcher.adapters import lora
from launcher.engine import Engine
from launcher.errors import RecipeError
from launcher.optimizers import adamw
from launcher.schema.training import Regularization

LR = 0.01


def groups_of(model, adapter="lora", decay=0.1, optimizer=None, **options) -> list[dict]:
    config = parts.load("adapters", adapter).Config(**options)
    optimizer = adamw.Config(learning_rate=LR, weight_decay=decay, **optimizer or {})
    recipe = SimpleNamespace(
        method=adapter, adapter=config, optimizer=optimizer, regularization=Regularization(), origin=lambda key: key
    )
    return param_groups.of(SimpleNamespace(model=model, named_parameters=model.named_parameters), recipe)


def names_of(model, group: dict) -> set[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)] for parameter in group["params"]}


def everything(model):
    return model.requires_grad_(True)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi"])
def test_each_trained_parameter_is_in_one_group_that_fits_it(family: str) -> None:
    model = everything(base(family))
    groups = groups_of(model, "full")
    listed = [parameter for group in groups for parameter in group["params"]]
    assert sorted(map(id, listed)) == sorted(map(id, model.parameters()))
    for group in groups:
        assert {parameter.ndim >= 2 for parameter in group["params"]} == {group["weight_decay"] == 0.1}
        assert group["weight_decay"] in (0.0, 0.1) and group["lr_scale"] == 1.0


def test_frozen_parameters_are_left_out() -> None:
    model = adapt(base())
    assert all("lora_" in name for group in groups_of(model) for name in names_of(model, group))


def test_a_group_has_one_dtype() -> None:
    """ZeRO makes one tensor of a group."""
    model = everything(base())
    model.model.layers[0].mlp.bfloat16()
    groups = groups_of(model, "full")
    assert all(len({parameter.dtype for parameter in group["params"]}) == 1 for group in groups)
    assert {parameter.dtype for group in groups for parameter in group["params"]} == {torch.float32, torch.bfloat16}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_embeddings_and_heads_are_not_hidden_matrices(family: str, tied: bool) -> None:
    model = everything(base(family, tie_word_embeddings=tied))
    hidden = set().union(*(names_of(model, g) for g in groups_of(model, "full") if g["hidden"]))
    apart = ("embed_tokens", "lm_head", "wte", "wpe")
    expected = {n for n, p in model.named_parameters() if p.ndim == 2 and not any(word in n for word in apart)}
    assert hidden == expected and expected


def test_what_peft_trains_of_an_embedding_is_not_hidden_either() -> None:
    for model in (
        adapt(grown(), modules_to_save=("embed_tokens",)),
        adapt(base(), target_modules=("q_proj", "embed_tokens")),
        adapt(base(tie_word_embeddings=True), modules_to_save=("lm_head",)),
    ):
        hidden = set().union(*(names_of(model, g) for g in groups_of(model) if g["hidden"]))
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert hidden == {name for name in trained if "layers" in name} < trained


def test_loraplus_groups() -> None:
    """B and vectors at 8 times the rate, A and copies at the rate, LoRA on an embedding at its own (arXiv:2402.12354)."""
    options = {"use_dora": True, "target_modules": ("q_proj", "embed_tokens"), "modules_to_save": ("lm_head", "norm")}
    model = adapt(base(), **options)
    groups = groups_of(model, loraplus_lr_ratio=8.0, loraplus_lr_embedding=1e-5)
    scales = {name: group["lr_scale"] for group in groups for name in names_of(model, group)}
    assert scales
    for name, scale in scales.items():
        vector = "norm" in name or "magnitude" in name
        wanted = 1e-5 / LR if "lora_embedding" in name else 8.0 if "lora_B" in name or vector else 1.0
        assert scale == wanted, name
    assert len(set(scales.values())) == 3
    assert {group["lr_scale"] for group in groups_of(model)} == {1.0}


def test_the_learning_rate_of_a_step_reaches_each_group_at_its_scale() -> None:
    """AdamW's first step moves every element by the learning rate of its group."""
    model = adapt(base(), init_lora_weights="pissa")
    groups = groups_of(model, decay=0.0, loraplus_lr_ratio=16.0)
    optimizer = parts.load("optimizers", "adamw").build(groups, parts.load("optimizers", "adamw").Config())
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    Engine.set_learning_rate(SimpleNamespace(optimizer=optimizer), 1e-3)
    optimizer.step()
    for name, start in before.items():
        moved = start - model.get_parameter(name).detach()
        rate = 16e-3 if "lora_B" in name else 1e-3
        torch.testing.assert_close(moved, torch.full_like(moved, rate), rtol=1e-3, atol=1e-6)


def test_the_ratio_is_read_from_the_recipe() -> None:
    assert lora.lr_scale("x.lora_B.default.weight", 2, lora.Config(loraplus_lr_ratio=2.0), 1e-3) == 2.0
    assert lora.lr_scale("x.lora_B.default.weight", 2, lora.Config(), 1e-3) == 1.0


def by_name(model, groups: list[dict], key: str) -> dict[str, float]:
    return {name: group[key] for group in groups for name in names_of(model, group)}


def test_no_decay_names_what_else_does_not_decay() -> None:
    model = everything(base())
    decays = by_name(model, groups_of(model, "full", optimizer={"no_decay": ("embeddings", "*.mlp.*")}), "weight_decay")
    plain = by_name(model, groups_of(model, "full"), "weight_decay")
    changed = {name for name in plain if plain[name] != decays[name]}
    assert changed == {name for name in plain if ".mlp." in name or "embed_tokens" in name}
    with pytest.raises(RecipeError, match="attention selects no parameter"):
        groups_of(model, "full", optimizer={"no_decay": ("attention",)})


def test_layers_learn_slower_the_further_they_are_from_the_output() -> None:
    """Depth as in BEiT: the head 0, the last layer 1, ... the embeddings one more than the first layer."""
    model = everything(base())
    last = model.config.num_hidden_layers - 1
    scales = by_name(model, groups_of(model, "full", optimizer={"layer_lr_decay": 0.5}), "lr_scale")
    for name, scale in scales.items():
        layer = next((n for n in range(last + 1) if f".layers.{n}." in name), None)
        depth = last + 1 - layer if layer is not None else last + 2 if "embed_tokens" in name else 0
        assert scale == 0.5**depth, name


def test_a_multiplier_is_a_factor_beside_the_others_and_the_last_one_holds() -> None:
    model = everything(base())
    options = {"layer_lr_decay": 0.5, "lr_multipliers": {"layers": 3.0, "layers[-1]": 10.0}}
    both = by_name(model, groups_of(model, "full", optimizer=options), "lr_scale")
    depth = by_name(model, groups_of(model, "full", optimizer={"layer_lr_decay": 0.5}), "lr_scale")
    last = model.config.num_hidden_layers - 1
    for name, scale in both.items():
        factor = 10.0 if f".layers.{last}." in name else 3.0 if ".layers." in name else 1.0
        assert scale == pytest.approx(depth[name] * factor), name


def test_the_plan_says_what_decays_and_how_far_the_rates_are_apart() -> None:
    model = everything(base())
    groups = groups_of(model, "full", optimizer={"lr_multipliers": {"head": 10.0}})
    vectors = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim < 2)
    matrices = sum(parameter.numel() for parameter in model.parameters()) - vectors
    assert param_groups.in_words(groups).endswith(
        f"groups: {matrices:,} parameters decay by 0.1, {vectors:,} do not; learning rate x1 to x10"
    )
