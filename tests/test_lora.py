"""LoRA's options: where A and B start, ranks by pattern, LoRA+, and that what is written is what was trained."""

import json
import shutil
import warnings
from pathlib import Path

import peft
import pytest
import tiny
import torch
from adapted import adapt, base, load, loaded, logits, merged, save, train
from pydantic import ValidationError

from launcher import recipe as recipes
from launcher import token_rows
from launcher.adapters import lora
from launcher.errors import CheckpointError, RecipeError, RecipeErrors
from launcher.lora import apply_lora

STARTS = ["pissa", "pissa_niter_4", "olora"]
UNEVEN = {"rank_pattern": {"q_proj": 2, r".*\.1\.mlp\.up_proj": 3}, "alpha_pattern": {"down_proj": 3.0}}


def factors(model, name: str = "lora_B"):
    return {n: p for n, p in model.named_parameters() if name in n and p.requires_grad}


# where A and B start


@pytest.mark.parametrize("family", ["llama", "gpt2"])  # gpt2 stores its weights transposed
@pytest.mark.parametrize("start", STARTS)
def test_before_the_first_step_the_output_is_the_bases(family: str, start: str) -> None:
    """Bit for bit, in bf16 too, with an A and a B that both learn; and the base's weights are those on disk."""
    for dtype in (torch.float32, torch.bfloat16):
        model = adapt(base(family, dtype), init_lora_weights=start)
        assert torch.equal(logits(model), logits(base(family, dtype)))
        weights = dict(base(family, dtype).named_parameters())
        for name, parameter in model.get_base_model().named_parameters():
            if "lora_" not in name:
                assert torch.equal(parameter, weights[name.replace(".base_layer", "")])
    model(input_ids=torch.tensor([[3, 5, 7]]), labels=torch.tensor([[3, 5, 7]])).loss.backward()
    assert all(p.grad.abs().max() > 0 for p in [*factors(model).values(), *factors(model, "lora_A").values()])


@pytest.mark.parametrize(("family", "start"), [("llama", "pissa"), ("llama", "olora"), ("gpt2", "pissa")])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_the_training_is_that_of_pefts_own(family: str, start: str, use_rslora: bool) -> None:
    """PEFT takes B0 A0 out of the base's weight instead. The same function, so the same weights after the same steps."""
    ours = adapt(base(family), init_lora_weights=start, use_rslora=use_rslora)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=12, target_modules="all-linear", init_lora_weights=start,
        use_rslora=use_rslora, fan_in_fan_out=family == "gpt2",
    )  # fmt: skip
    theirs = peft.get_peft_model(base(family), config)
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=0, atol=1e-4)  # they have rounded W - B0 A0
    for name, b in factors(ours).items():
        a, other = name.replace("lora_B", "lora_A"), dict(theirs.named_parameters())
        torch.testing.assert_close(
            b @ ours.get_parameter(a), other[name] @ other[a], rtol=0, atol=1e-5, msg=f"{name} starts elsewhere"
        )
    before = logits(ours)
    torch.testing.assert_close(logits(train(ours)), logits(train(theirs)), rtol=0, atol=1e-3)
    assert (logits(ours) - before).abs().max() > 0.1


def test_the_fast_decomposition_is_nearly_the_best() -> None:
    """What it leaves of W, against the singular values that the best approximation of that rank leaves."""
    model = adapt(base(), init_lora_weights="pissa_niter_16")
    for layer in (m for m in model.modules() if hasattr(m, "lora_start")):
        weight, singular = layer.base_layer.weight, torch.linalg.svdvals(layer.base_layer.weight)
        left = (weight - layer.get_delta_weight("default")).norm()
        assert singular[4:].norm() * 0.999 < left < singular[4:].norm() * 1.05 < weight.norm() * 0.95


def test_dropout_falls_on_both_products_alike() -> None:
    """Untrained, what is dropped from B A x is dropped from B0 A0 x, too: dropout cannot disturb the base."""
    model = adapt(base(), init_lora_weights="pissa", lora_dropout=0.5)
    text = torch.arange(1, 9).view(1, -1)
    with torch.no_grad():
        assert torch.equal(model.train()(input_ids=text).logits, base()(input_ids=text).logits)
        for b in factors(model).values():
            b.mul_(1.1)
        assert not torch.equal(model.train()(input_ids=text).logits, model.eval()(input_ids=text).logits)


@pytest.mark.parametrize("start", [True, "gaussian", *STARTS])
def test_the_start_follows_from_the_seed(start: object) -> None:
    one, same, other = (adapt(base(), seed=seed, init_lora_weights=start) for seed in (1, 1, 2))
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, same.get_parameter(name))
    differs = any(not torch.equal(p, other.get_parameter(n)) for n, p in factors(one, "lora_A").items())
    assert differs is (start in (True, "gaussian", "pissa_niter_4"))


def test_loftq_makes_up_for_the_rounding_of_the_base() -> None:
    """W - (Q + s B A) is the smallest that any matrix of that rank leaves (Eckart and Young)."""
    with pytest.raises(RecipeError, match="loftq makes up for .* not quantised.*use method qlora"):
        adapt(base(), init_lora_weights="loftq")
    original = {name: module.weight.detach() for name, module in base().named_modules() if name.endswith("_proj")}
    rounded = base()
    for name in original:
        weight = rounded.get_submodule(name).weight.data
        weight.copy_((weight * 4).round() / 4)
    options = lora.Config(r=4, lora_alpha=12.0, init_lora_weights="loftq")
    wrapped = apply_lora(rounded, options, original=original.__getitem__).get_base_model()
    for name, weight in original.items():
        layer = wrapped.get_submodule(name)
        left = weight - layer.base_layer.weight - layer.get_delta_weight("default")
        singular = torch.linalg.svdvals(weight - layer.base_layer.weight)
        torch.testing.assert_close(left.norm(), singular[4:].norm(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"init_lora_weights": "pissa", "r": 33}, r"q_proj: .*pissa: rank 33 is more than a \(32, 32\) weight has"),
        (
            {"init_lora_weights": "olora", "target_modules": ("embed_tokens", "q_proj")},
            "fits linear layers, not a Embedd",
        ),
        ({"rank_pattern": {"q_prj": 2}}, "adapter.rank_pattern: q_prj matches no module with LoRA; there are .*q_proj"),
        ({"alpha_pattern": {"lm_head": 2.0}}, "adapter.alpha_pattern: lm_head matches no module with LoRA"),
        ({"modules_to_save": ("lm_haed",)}, "adapter.modules_to_save: lm_haed matches no module"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(options: dict, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        adapt(base(), **options)


def test_experts_that_are_fused_have_no_weight_to_start_from() -> None:
    with pytest.raises(RecipeError, match="pissa fits linear layers, not a .*Experts; leave it out of adapter.target"):
        adapt(base("qwen3_moe"), init_lora_weights="pissa", target_modules="all-linear")


def test_dora_is_not_sharded(recipe: Path) -> None:
    words = ["adapter.use_dora=true", "distributed.strategy="]
    with pytest.raises(RecipeErrors, match="use_dora: .*PEFT takes the norms.*use distributed.strategy zero2"):
        recipes.load(recipe, [words[0], words[1] + "zero3"])
    recipes.load(recipe, [words[0], words[1] + "zero2"])


@pytest.mark.parametrize("options", [{"use_dora": True}, {"lora_dropout": 0.1}])
def test_what_peft_cannot_do_to_experts_is_refused_with_what_to_do(options: dict) -> None:
    """And what the error says to do is accepted."""
    with pytest.raises(RecipeError, match="fused weights of experts") as refused:
        apply_lora(base("qwen3_moe"), lora.Config(**options))
    advised = tuple(refused.value.fix.partition("=[")[2].rstrip("]").split(", "))
    assert apply_lora(base("qwen3_moe"), lora.Config(**options, target_modules=advised)).targeted_module_names


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True, "init_lora_weights": "pissa"},
        {"loraplus_lr_embedding": 1e-5},
        {"init_lora_weights": False},
        {"init_lora_weights": "eva"},
        {"init_lora_weights": "pissa_niter_"},
        {"rank_pattern": {"q_proj": 0}},
        {"loraplus_lr_ratio": 0.5},
        {"target_modules": "(q_proj"},
        {"alpha_pattern": {"*.q_proj": 1.0}},
    ],
)
def test_what_does_not_fit_together_is_refused(options: dict) -> None:
    with pytest.raises(ValidationError):
        lora.Config(**options)


# what is written


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("start", [True, *STARTS])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_the_adapter_fits_everybodys_base(family: str, start: object, use_rslora: bool, tmp_path: Path) -> None:
    """Trained, written as a plain LoRA (of twice the rank where it began in the base), and read by PEFT; merged too."""
    uneven = UNEVEN if family == "llama" else {"rank_pattern": {"c_fc": 2}, "alpha_pattern": {"c_attn": 3.0}}
    options = {"init_lora_weights": start, "use_rslora": use_rslora, **uneven}
    trained = [train(adapt(base(family), **options)) for _ in range(2)]
    expected, untrained = logits(trained[0]), logits(base(family))
    assert (expected - untrained).abs().max() > 0.1
    tolerance = 1e-5 * float(expected.abs().max())
    read = loaded(trained[0], base(family), tmp_path / "adapter")
    torch.testing.assert_close(logits(read), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(logits(merged(trained[1], tmp_path / "merged")), expected, rtol=0, atol=tolerance)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["init_lora_weights"] is True
    assert config["r"] == (4 if start is True else 8)
    with read.disable_adapter():
        assert torch.equal(logits(read), untrained)


@pytest.mark.parametrize("start", STARTS)
def test_a_checkpoint_holds_the_start(start: str, tmp_path: Path) -> None:
    """Into a model that began elsewhere (another machine decomposes differently in the last bits): bit for bit the same."""
    model = train(adapt(base(), init_lora_weights=start))
    save(model, tmp_path / "model")
    other = adapt(base(), seed=9, init_lora_weights=start)
    for layer in (m for m in other.modules() if hasattr(m, "lora_start")):
        layer.lora_start["default"].a.mul_(1.001)
    load(other, tmp_path / "model")
    assert torch.equal(logits(other), logits(model))


def test_an_adapter_that_began_plainly_is_no_checkpoint_of_one_that_did_not(tmp_path: Path) -> None:
    save(adapt(base()), tmp_path / "model")
    with pytest.raises(CheckpointError, match="lora_start"):
        load(adapt(base(), init_lora_weights="pissa"), tmp_path / "model")
    save(adapt(base(), init_lora_weights="pissa"), tmp_path / "started")
    with pytest.raises(CheckpointError, match="lora_start"):
        load(adapt(base()), tmp_path / "started")


# ranks


def test_patterns_give_their_ranks_and_scales() -> None:
    """As PEFT matches: from a dot on to the end of the name; what no pattern fits keeps r and lora_alpha."""
    model = adapt(base(), use_rslora=True, **UNEVEN).get_base_model()
    for layer, block in enumerate(model.model.layers):
        found = {name: block.get_submodule(f"{where}.{name}") for where, name in [
            ("self_attn", "q_proj"), ("self_attn", "k_proj"), ("mlp", "up_proj"), ("mlp", "down_proj")]}  # fmt: skip
        ranks = {"q_proj": 2, "k_proj": 4, "up_proj": 3 if layer == 1 else 4, "down_proj": 4}
        for name, rank in ranks.items():
            assert (
                found[name].lora_A["default"].weight.shape[0] == found[name].lora_B["default"].weight.shape[1] == rank
            )
            alpha = 3.0 if name == "down_proj" else 12.0
            assert found[name].scaling["default"] == pytest.approx(alpha / rank**0.5)


# LoRA on one of two tied matrices


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_lora_on_one_of_two_tied_matrices_can_be_merged(target: str, tmp_path: Path) -> None:
    """Merged in place, the other one would change with it."""
    options = {"target_modules": ("q_proj", target)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = train(adapt(base(tie_word_embeddings=True), **options))
    expected = logits(model)
    fresh = merged(model, tmp_path / "merged")
    torch.testing.assert_close(logits(fresh), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert fresh.get_output_embeddings().weight is not fresh.get_input_embeddings().weight
    assert fresh.config.tie_word_embeddings is False
    token_rows.untie_where_lora_stands(other := adapt(base(tie_word_embeddings=True), **options))  # before any merging
    under = other.get_base_model()
    assert under.config.tie_word_embeddings is False and not token_rows.tied(under)


# the whole way


WORDS = ["adapter.init_lora_weights=pissa_niter_2", "adapter.rank_pattern={q_proj: 2}", "adapter.loraplus_lr_ratio=4",
         "checkpoint.save_steps=3", "evaluation.metrics=[loss]"]  # fmt: skip


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "whole"
    assert tiny.train(recipe, *WORDS, f"output_dir={folder}", "export.verify=true") == 0
    return folder


def test_a_run_from_a_decomposition_resumes_and_exports(recipe: Path, whole: Path, tmp_path: Path) -> None:
    """Bit for bit from a checkpoint, with LoRA+ and uneven ranks; the export is proven in a fresh process."""
    assert json.loads((whole / "proof" / "verdict.json").read_text())["ok"]
    cut = shutil.copytree(whole, tmp_path / "cut")
    (cut / "metrics.jsonl").unlink()
    assert tiny.train(recipe, *WORDS, "--resume", str(cut / "checkpoints" / "step-00000003")) == 0
    assert sorted(tiny.losses(cut)) == [4, 5, 6]
    assert tiny.losses(cut) == {step: loss for step, loss in tiny.losses(whole).items() if step > 3}
    name = "export/adapter_model.safetensors"
    assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_every_rank_starts_at_the_same_place(recipe: Path, whole: Path, tmp_path: Path) -> None:
    words = ["train", str(recipe), *WORDS, f"output_dir={tmp_path / 'two'}"]
    assert tiny.Ranks(2, words, tmp_path / "log").wait() == [0, 0], (tmp_path / "log").read_text()
    assert tiny.losses(tmp_path / "two") == pytest.approx(tiny.losses(whole), rel=1e-5)
