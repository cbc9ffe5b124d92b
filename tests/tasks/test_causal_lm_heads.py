"""Heads that adapters or quantisation change: the fused loss follows the head's own forward pass, or says why it cannot."""

import contextlib

import peft
import pytest
import torch
from families import assert_same, build, lora, loss_and_gradients, padded_batch
from torch import nn

from launcher import losses
from launcher.errors import RecipeError
from launcher.heads import resolve
from launcher.tasks.causal_lm.objective import Objective

ON_HEAD = ["q_proj", "lm_head"]


def assert_fused_equals_plain(model, **options):
    fused, plain = Objective(model, "fused"), Objective(model, "torch")
    ours, theirs = loss_and_gradients(fused, padded_batch()), loss_and_gradients(plain, padded_batch())
    assert_same(ours, theirs, **options)
    return ours[2]


def hidden_and_labels(width: int = 32):
    torch.manual_seed(3)
    return torch.randn(3, 7, width), torch.randint(1, 97, (3, 7))


# LoRA on the head


@pytest.mark.parametrize("family", ["llama", "phi", "gemma3_text"])  # phi has a bias, gemma a softcap
@pytest.mark.parametrize("tied", [True, False])
def test_lora_on_the_head(family, tied):
    model = lora(build(family, tie_word_embeddings=tied), target_modules=ON_HEAD, lora_alpha=12)
    gradients = assert_fused_equals_plain(model)
    assert {"A", "B"} == {name.split("lora_")[1][0] for name in gradients if "lm_head" in name}


def test_lora_of_the_head_against_its_merged_weight():
    model = lora(build("llama"), target_modules=["lm_head"], lora_alpha=12)
    layer, (hidden, labels) = model.get_base_model().lm_head, hidden_and_labels()
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    head, kind = resolve(model.get_base_model())
    assert kind == "plain linear head with LoRA (adapter default)"
    ours = torch.autograd.grad(losses.from_hidden(hidden, head, labels)[0], [a, b])
    merged = layer.base_layer.weight + 12 / 4 * b @ a
    theirs = torch.autograd.grad(losses.from_logits(hidden @ merged.t(), labels)[0], [a, b])
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_loras_dropout_falls_on_its_input_and_only_in_training(training):
    """From the same seed PEFT's own forward pass draws the same mask."""
    model = lora(build("llama"), target_modules=["lm_head"], lora_dropout=0.5).train(training)
    base, (hidden, labels) = model.get_base_model(), hidden_and_labels()
    head, _ = resolve(base)
    trained = [base.lm_head.lora_A["default"].weight, base.lm_head.lora_B["default"].weight]
    results = []
    for logits in (None, base.lm_head):
        torch.manual_seed(5)
        make = (
            losses.from_hidden(hidden, head, labels) if logits is None else losses.from_logits(logits(hidden), labels)
        )
        results.append([make[0].detach(), *torch.autograd.grad(make[0], trained)])
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    torch.manual_seed(6)
    assert torch.equal(results[0][0], losses.from_hidden(hidden, head, labels)[0]) is not training


def test_switched_off_adapters_are_left_out_and_come_back():
    model = lora(build("llama"), target_modules=["lm_head"])
    objective, batch = Objective(model, "fused"), padded_batch()
    adapted = objective(**batch).terms["tokens"][0].detach()
    with model.disable_adapter():
        bare = objective(**batch).terms["tokens"][0].detach()
        torch.testing.assert_close(bare, Objective(model, "torch")(**batch).terms["tokens"][0].detach())
    assert abs(bare - adapted) > 1e-2
    assert torch.equal(adapted, objective(**batch).terms["tokens"][0].detach())


# trained copies


def with_two_copies():
    model = lora(build("llama"), modules_to_save=["lm_head"])
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model.add_adapter("other", config)
    with torch.no_grad():
        for name, parameter in model.get_base_model().lm_head.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if "default" in name else 0.4))
    return model


@pytest.mark.parametrize("adapter", ["default", "other"])
def test_the_copy_of_the_active_adapter_is_trained(adapter):
    model = with_two_copies()
    model.set_adapter(adapter)
    gradients = assert_fused_equals_plain(model)
    assert [name for name in gradients if "lm_head" in name] == [
        f"model.base_model.model.lm_head.modules_to_save.{adapter}.weight"
    ]
    assert f"adapter {adapter} trains" in Objective(model, "auto").reason


def test_the_head_follows_the_adapter_that_is_active_at_the_time():
    model, batch, found = with_two_copies(), padded_batch(), {}
    fused, plain = Objective(model, "fused"), Objective(model, "torch")
    for state in ("default", "other", "none"):
        if state != "none":
            model.set_adapter(state)
        with model.disable_adapter() if state == "none" else contextlib.nullcontext():
            found[state] = float(fused(**batch).terms["tokens"][0].detach())
            assert found[state] == pytest.approx(float(plain(**batch).terms["tokens"][0].detach()), rel=1e-5)
    assert len({round(loss, 2) for loss in found.values()}) == 3


def test_a_copy_of_a_tied_head_is_no_longer_tied():
    assert_fused_equals_plain(lora(build("llama", tie_word_embeddings=True), modules_to_save=["lm_head"]))


# single trained rows


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])  # gemma has a softcap, and an embedding that scales
@pytest.mark.parametrize("tied", [True, False])
def test_single_rows_of_a_head(family, tied):
    """The gradient of a row comes from its logits and, where tied, from its look-ups."""
    rows = {"embed_tokens": [3, 1, 96]} if tied else {"lm_head": [3, 1, 96]}
    model = lora(build(family, tie_word_embeddings=tied), target_modules=["q_proj"], trainable_token_indices=rows)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "trainable_tokens" in name:
                parameter.normal_()
    gradients = assert_fused_equals_plain(model)
    assert sum("trainable_tokens" in name for name in gradients) == 1
    assert Objective(model, "auto").reason == "plain linear head with 3 trained rows"


# quantised heads


def quantised(layer, width: int = 64, **options):
    """A Llama with its head replaced; wide enough that blocks of 64 do not run over rows, which bitsandbytes needs on a CPU."""
    model = build("llama", hidden_size=width, head_dim=16, initializer_range=0.1)
    head = layer(width, 97, bias=False, **options)
    head.load_state_dict({"weight": model.lm_head.weight.detach().clone()})
    model.lm_head = head.to("cpu")
    return model


def four_bit(nested: bool, storage: torch.dtype = torch.uint8):
    nn4 = pytest.importorskip("bitsandbytes").nn
    return quantised(nn4.Linear4bit, compress_statistics=nested, quant_type="nf4", quant_storage=storage)


@pytest.mark.parametrize("nested", [True, False])
def test_a_four_bit_head(nested):
    model = four_bit(nested)
    assert Objective(model, "auto").reason == "4-bit head (nf4)"
    assert_fused_equals_plain(model)


@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(("start", "stop"), [(0, 97), (0, 1), (13, 14), (255, 257), (300, 301), (511, 600)])
def test_rows_of_a_four_bit_head(start, stop, nested, storage):
    """Against the whole weight, for rows that begin within a block of scales (256 blocks of 64 are 256 rows here)."""
    bnb = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    layer = bnb.nn.Linear4bit(64, 600, bias=False, compress_statistics=nested, quant_type="nf4", quant_storage=storage)
    layer.load_state_dict({"weight": torch.randn(600, 64) * torch.logspace(-2, 1, 600).unsqueeze(1)})
    layer = layer.to("cpu")
    whole = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    model = build("llama")
    model.lm_head = layer
    assert torch.equal(resolve(model)[0].weight.read(start, stop), whole[start:stop])


def test_an_eight_bit_head_before_and_after_its_first_use():
    bnb = pytest.importorskip("bitsandbytes")
    model = quantised(bnb.nn.Linear8bitLt, has_fp16_weights=False)
    before = resolve(model)[0].weight.read(5, 9)
    assert_fused_equals_plain(model, tolerance=3e-2)  # its own forward pass rounds its input to 8 bits
    assert torch.equal(before, resolve(model)[0].weight.read(5, 9))
    objective = Objective(model.eval(), "auto")
    objective.settle(padded_batch(), 1e-4)
    assert objective.implementation == "fused"


@pytest.mark.parametrize("bits", [4, 8])
def test_lora_on_a_quantised_head(bits):
    bnb = pytest.importorskip("bitsandbytes")
    model = four_bit(True) if bits == 4 else quantised(bnb.nn.Linear8bitLt, has_fp16_weights=False)
    if bits == 4:
        model.is_loaded_in_4bit = True
    else:
        model.is_loaded_in_8bit = True
    adapted = lora(model, target_modules=["lm_head"])
    gradients = assert_fused_equals_plain(adapted, tolerance=2e-5 if bits == 4 else 3e-2)
    assert len(gradients) == 2
    assert f"{bits}-bit head" in Objective(adapted, "auto").reason


# who is refused


def dora(model):
    return lora(model, target_modules=ON_HEAD, use_dora=True)


def with_bias(model):
    return lora(model, target_modules=ON_HEAD, lora_bias=True)


def two_adapters(model):
    adapted = lora(model, target_modules=ON_HEAD)
    adapted.add_adapter("other", peft.LoraConfig(r=2, target_modules=ON_HEAD))
    adapted.base_model.set_adapter(["default", "other"])
    return adapted


def merged(model):
    adapted = lora(model, target_modules=ON_HEAD)
    adapted.merge_adapter()
    return adapted


def trained_rows_beside_a_bias(model):
    rows = {"embed_tokens": [1, 2], "lm_head": [1, 2]}
    return lora(build("phi"), target_modules=["q_proj"], trainable_token_indices=rows)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("adapt", "tied", "reason"),
    [
        (dora, False, "adapter default is no plain LoRA but a DoraLinearVariant"),
        (with_bias, False, "adapter default has lora_bias"),
        (two_adapters, False, "several active adapters: default, other"),
        (merged, False, "merged into it"),
        (trained_rows_beside_a_bias, False, "is a plain linear head with trained rows, which PEFT computes otherwise"),
    ],
)
def test_what_is_another_formula_is_trained_by_the_plain_loss(adapt, tied, reason):
    model = adapt(build("llama", tie_word_embeddings=tied))
    objective = Objective(model, "auto")
    assert objective.implementation == "torch" and reason in objective.reason
    assert objective(**padded_batch()).terms["tokens"][0].isfinite()
    with pytest.raises(RecipeError, match="fused cannot be used: the output head"):
        Objective(model, "fused")


@pytest.mark.parametrize("asked", ["auto", "fused"])
def test_a_head_that_changes_under_way_is_not_computed_wrongly(asked):
    model = lora(build("llama"), target_modules=ON_HEAD)
    objective = Objective(model, asked)
    model.merge_adapter()
    if asked == "fused":
        with pytest.raises(RecipeError, match="cannot be used any more.*merged"):
            objective(**padded_batch())
        return
    loss = objective(**padded_batch()).terms["tokens"][0].detach()
    assert objective.implementation == "torch" and "merged" in objective.reason
    torch.testing.assert_close(loss, Objective(model, "torch")(**padded_batch()).terms["tokens"][0].detach())


# settle


def doubled_gradient(module, args, logits):
    """The same logits, another gradient."""
    return logits.detach() + (logits - logits.detach()) * 2


def settle(objective):
    objective.eval()
    objective.settle(padded_batch(), 1e-4)
    return objective


def test_settle_finds_a_gradient_that_is_wrong_where_the_loss_is_right():
    model = build("llama")
    model.lm_head.register_forward_hook(doubled_gradient)
    objective = settle(Objective(model, "auto"))
    assert objective.implementation == "torch"
    assert "gradients by hidden 5e-01, weight 5e-01" in objective.reason
    with pytest.raises(RecipeError, match="fused is wrong for this model: .*loss.implementation=torch"):
        settle(Objective(model, "fused"))


def test_settle_finds_one_parameter_that_gets_no_gradient():
    model = lora(build("llama"), target_modules=["lm_head"])
    model.get_base_model().lm_head.lora_B["default"].register_forward_pre_hook(lambda m, args: (args[0].detach(),))
    objective = settle(Objective(model, "auto"))
    assert objective.implementation == "torch" and "lora_A inf" in objective.reason


@pytest.mark.parametrize("adapt", [lambda m: m, lambda m: lora(m, target_modules=ON_HEAD, lora_dropout=0.5)])
def test_settle_compares_every_gradient_and_leaves_none(adapt):
    objective = settle(Objective(adapt(build("llama")), "auto"))
    assert objective.implementation == "fused"
    names = ["hidden", "lora_A", "lora_B"] if "LoRA" in objective.reason else ["hidden", "weight"]
    assert all(f"{name} " in objective.reason.split("gradients by")[1] for name in names)
    assert all(parameter.grad is None for parameter in objective.parameters())
    assert not objective.head_module()._forward_pre_hooks
    assert torch.is_grad_enabled()


def test_settle_accepts_a_fresh_adapter_whose_a_has_no_gradient_yet():
    model = lora(build("llama"), target_modules=["lm_head"])
    nn.init.zeros_(model.get_base_model().lm_head.lora_B["default"].weight)
    assert settle(Objective(model, "auto")).implementation == "fused"
