"""A quantised base trains like the weights that it stands for, and exports as what was trained."""

import contextlib
import dataclasses
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from launcher import dequantize, export, model, parts, plan, proof, quantize, quantized_layers, recipe
from launcher.errors import EnvironmentProblem, RecipeError
from launcher.world import World

bnb = pytest.importorskip("bitsandbytes")

TASK = parts.load_whole("tasks", "causal_lm")
SCHEMES = {
    "nf4": "{double_quant: false}",
    "nf4 double": "{bits: 4}",
    "fp4 double": "{quant_type: fp4}",
    "int8": "{bits: 8}",
}
STEPS = 10


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe under method qlora, with layers of whole blocks."""
    path = tiny.make(tmp_path_factory.mktemp("qlora"))
    tiny.save_model(path.parent / "model", hidden_size=64, intermediate_size=192, tie_word_embeddings=True)
    text = path.read_text().replace("method: lora", "method: qlora")
    path.write_text(
        text.replace("metrics: [loss]", "").replace("max_new_tokens: 4", "max_new_tokens: 4, metrics: [loss]")
    )
    return path


def loaded(path: Path, *words: str, dtype: str = "fp32", compute: str | None = "float32") -> Any:
    """The model with its adapter, B away from zero so that every gradient flows."""
    read = recipe.load(path, words)
    base = model.load(read, TASK, dtype, model.load_tokenizer(read), "cpu", compute)
    return _away_from_zero(parts.load("adapters", read.method).apply(base, read.adapter))


def _away_from_zero(adapted: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return adapted


def reference_of(quantized: Any, path: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Plain LoRA on an unquantised model that holds what the quantised one stands for, dequantised here by the definition."""
    read = recipe.load(path, ["method=lora", "quantization=null"])
    base = model.load(read, TASK, "fp32", model.load_tokenizer(read))
    layers = dict(quantized.get_base_model().named_modules())
    for name, module in base.named_modules():
        if isinstance(module, torch.nn.Linear) and (layer := getattr(layers[name], "base_layer", None)) is not None:
            module.weight.data = by_definition(layer)
    adapted = _away_from_zero(parts.load("adapters", "lora").apply(base, read.adapter))
    return adapted.to(dtype)


def by_definition(layer: Any) -> Tensor:
    if isinstance(layer, bnb.nn.Linear8bitLt):
        scales = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
        return layer.weight.data.float() * scales[:, None] / 127
    state, packed = layer.weight.quant_state, layer.weight.data.view(-1)
    scales = state.absmax
    if state.nested:
        outer = state.state2
        scales = outer.code[scales.long()] * outer.absmax.repeat_interleave(256)[: len(scales)] + state.offset
    values = state.code[torch.stack([packed >> 4, packed & 15], 1).view(-1).long()]
    return (values.view(-1, 64) * scales[:, None]).view(state.shape)


def batch() -> dict[str, Tensor]:
    ids = torch.randint(5, 25, (3, 12), generator=torch.Generator().manual_seed(2))
    return {"input_ids": ids, "labels": ids}


def losses_of(adapted: Any, look_in_between: bool = True) -> list[float]:
    """Ten steps of plain gradient descent, with an evaluation after the fifth."""
    found = []
    for step in range(STEPS):
        loss = adapted.train()(**batch()).loss
        found.append(float(loss.detach()))
        loss.backward()
        for parameter in adapted.parameters():
            if parameter.grad is not None:
                parameter.data -= 0.5 * parameter.grad
                parameter.grad = None
        if step == 4 and look_in_between:
            with torch.no_grad():
                adapted.eval()(**batch())
    return found


def gradient_of(adapted: Any, autocast: bool = False) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = adapted.train()(**batch()).loss
    loss.backward()
    found = torch.cat([p.grad.double().flatten() for _, p in adapted.named_parameters() if p.grad is not None])
    adapted.zero_grad()
    return found


def off(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


# training


@pytest.mark.parametrize("scheme", SCHEMES)
def test_trains_as_the_weights_that_it_stands_for(wide: Path, scheme: str) -> None:
    """Losses of ten steps with an evaluation in between, and gradients before and after: within a few times the error that the
    fp32 reference itself has, which one in fp64 tells."""
    ours = loaded(wide, f"quantization={SCHEMES[scheme]}")
    theirs, exact = reference_of(ours, wide), reference_of(ours, wide, torch.float64)
    assert off(gradient_of(ours), gradient_of(exact)) < 5 * off(gradient_of(theirs), gradient_of(exact))
    ours_losses, losses, exact_losses = (torch.tensor(losses_of(each)) for each in (ours, theirs, exact))
    assert losses[0] - losses[-1] > 0.1
    assert (ours_losses - exact_losses).abs().max() < 5 * (losses - exact_losses).abs().max()
    assert off(gradient_of(ours), gradient_of(exact)) < 5 * off(gradient_of(theirs), gradient_of(exact))


def test_evaluation_on_a_cpu_leaves_every_bit_as_it_was(wide: Path) -> None:
    """Also on a CPU with AVX512-BF16, where bitsandbytes would repack the weights."""
    ours = loaded(wide)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    with torch.no_grad():
        ours.eval()(**batch())
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())


def test_int8_rounds_its_inputs_in_evaluation_on_a_cpu(wide: Path) -> None:
    """By less than what an export may be off, and not by nothing."""
    ours = loaded(wide, "quantization={bits: 8}")
    theirs = reference_of(ours, wide)
    with torch.no_grad():
        logits, exact = ours.eval()(**batch()).logits, theirs.eval()(**batch()).logits
    error = float((logits - exact).abs().max() / exact.abs().max())
    assert 1e-4 < error < dequantize.INT8_ERROR / 2


def test_bf16_is_as_exact_as_plain_lora_in_bf16(wide: Path) -> None:
    ours = loaded(wide, dtype="bf16", compute="bfloat16")
    exact = gradient_of(reference_of(ours, wide, torch.float64))
    plain = reference_of(ours, wide)
    for name, parameter in plain.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.bfloat16()
    assert off(gradient_of(ours, True), exact) < 1.5 * off(gradient_of(plain, True), exact) < 0.1


def test_the_backward_pass_has_the_weights_of_the_forward_pass(wide: Path) -> None:
    """Weights loaded in bf16 and computed with in fp32: bitsandbytes alone would take bf16 in the backward pass."""
    ours = loaded(wide, dtype="bf16", compute="float32")
    for name, parameter in ours.named_parameters():  # only the quantised layers are under test
        if parameter.is_floating_point() and "lora_" not in name:
            parameter.data = parameter.data.float()
    theirs = reference_of(ours, wide)
    copy_frozen(ours, theirs)
    assert off(gradient_of(ours), gradient_of(theirs)) < 1e-5


def test_the_backward_pass_reads_the_weight_that_is_there_by_then(wide: Path) -> None:
    """ZeRO-3 takes a weight apart after the forward pass and puts it together again: no layer may hold on to the whole."""
    layer = loaded(wide).get_base_model().model.layers[0].mlp.up_proj.base_layer
    x = torch.randn(2, 64, requires_grad=True)
    y = layer(x)
    layer.weight.data = layer.weight.data.flip(0)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(2, 192) @ by_definition(layer))


def copy_frozen(source: Any, target: Any) -> None:
    known = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        if name in known and known[name].shape == parameter.shape:
            parameter.data = known[name].data.clone().to(parameter.dtype)


# storage


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_stored_bytes_are_those_of_the_loaded_model(wide: Path, scheme: str, dtype: str) -> None:
    read = recipe.load(wide, [f"quantization={SCHEMES[scheme]}"])
    base = model.load(read, TASK, dtype, model.load_tokenizer(read), "cpu", "float32")
    layout = layout_of(read)
    kinds = {m.quant_state.quant_type for m in base.modules() if isinstance(m, bnb.nn.Linear4bit)} or {"int8"}
    assert kinds == {scheme.split()[0]} and len(layout.linear) == 14
    stored = layout.stored_bytes(4 if dtype == "fp32" else 2)
    assert stored == {name: sum(map(nbytes, parts_of(parameter))) for name, parameter in base.named_parameters()}
    facts = model.facts(read, TASK, parts.load("adapters", "qlora"))
    quantised = {weight.stored.codes + weight.stored.scales for weight in facts.weights if weight.stored}
    assert quantised and quantised <= set(stored.values())


def parts_of(parameter: Any) -> list[Tensor]:
    """A parameter with all that belongs to it alone."""
    if isinstance(parameter, bnb.nn.Int8Params):
        return [parameter.data, parameter.SCB]
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return [parameter.data]
    outer = [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
    return [parameter.data, state.absmax, state.code, *outer]


def nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def layout_of(read: recipe.Recipe) -> quantized_layers.Layout:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return quantized_layers.layout(read, AutoModelForCausalLM.from_config(model.load_config(read)[0]))


def with_shape(path: Path, folder: Path, config: Any) -> list[str]:
    """Words for a recipe with an untrained model of this configuration."""
    from transformers import AutoModelForCausalLM

    shutil.copytree(path.parent / "model", folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(config)
        for name, parameter in made.named_parameters():
            if name.endswith("bias"):  # which begin at zero
                torch.nn.init.normal_(parameter, std=0.5)
        made.save_pretrained(folder)
    return [f"model.name_or_path={folder}"]


def test_what_is_not_quantised_is_said_with_its_share(wide: Path, tmp_path: Path) -> None:
    from transformers import Qwen3MoeConfig

    shape = {"hidden_size": 64, "moe_intermediate_size": 64, "intermediate_size": 96, "num_experts": 4, "head_dim": 16}
    config = Qwen3MoeConfig(
        vocab_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, mlp_only_layers=[0], **shape
    )
    words = with_shape(wide, tmp_path / "moe", config)
    layout = layout_of(recipe.load(wide, [*words, "quantization={skip_modules: [layers.0.self_attn, v_proj]}"]))
    assert set(layout.linear) == {f"model.layers.{n}" for n in ("0.mlp.gate_proj", "0.mlp.up_proj")} | {
        f"model.layers.1.self_attn.{n}_proj" for n in "qko"
    }
    experts = 4 * 64 * 64 * 3
    assert (
        layout.left["weights of several matrices (fused experts, for example), which bitsandbytes cannot quantise"]
        == experts
    )
    assert layout.left["layers whose inputs are no multiple of 64"] == 96 * 64
    assert layout.left["quantization.skip_modules"] == 64 * (64 + 32 + 32 + 64) + 64 * 32
    assert sum(layout.left.values()) + sum(a * b for a, b in layout.linear.values()) == layout._number
    assert "% weights of several matrices (fused experts" in layout.remainder
    loaded(wide, *words)  # what was planned is what is loaded, or an assertion says so


# whole runs


@pytest.fixture(scope="module")
def run(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps with evaluations in between, the adapter exported and proven by a fresh process."""
    folder = tmp_path_factory.mktemp("run") / "one"
    assert tiny.train(wide, *OPTIONS, f"output_dir={folder}", "export.verify=true") == 0
    return folder


OPTIONS = ["training.max_steps=8", "checkpoint.save_steps=4", "evaluation.eval_steps=2"]


def test_the_adapter_is_proven_on_a_base_that_is_quantised_anew(run: Path) -> None:
    verdict = json.loads((run / "proof" / "verdict.json").read_text())
    assert verdict["ok"] and verdict["largest_logit_difference"] < 1e-6
    tensors = json.loads((run / "proof" / "reference.json").read_text())["tensors"]
    assert sum(name.endswith("base_layer.weight.quant_state.bitsandbytes__nf4") for name in tensors) == 14
    assert "weights in nf4 with quantised scales" in (run / "export" / "README.md").read_text()


def test_resumed_equals_uninterrupted_bit_for_bit(wide: Path, run: Path, tmp_path: Path) -> None:
    again = shutil.copytree(run, tmp_path / "again")
    words = ["train", str(wide), *OPTIONS, "--resume", str(again / "checkpoints" / "step-00000004")]
    assert tiny.Ranks(1, words, tmp_path / "log").wait() == [0], (tmp_path / "log").read_text()
    for metric in ("train/loss", "train/grad_norm", "eval/loss"):
        assert tiny.losses(again, metric) == tiny.losses(run, metric)
    adapter = Path("export") / "adapter_model.safetensors"
    assert (again / adapter).read_bytes() == (run / adapter).read_bytes()


def test_two_ranks_equal_one(wide: Path, run: Path, tmp_path: Path) -> None:
    words = ["train", str(wide), *OPTIONS, f"output_dir={tmp_path / 'two'}"]
    assert tiny.Ranks(2, words, tmp_path / "log").wait() == [0, 0], (tmp_path / "log").read_text()
    assert tiny.losses(tmp_path / "two") == pytest.approx(tiny.losses(run), rel=1e-5)
    assert '"world_size": {\n   "value": 2,' in (tmp_path / "two" / "plan.json").read_text()


@pytest.fixture
def proof_in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same proof without the seconds that a fresh process takes to import."""

    def prove(folder: Path, proof_folder: Path) -> dict[str, Any]:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            proof.main(folder, proof_folder)
        (proof_folder / "verdict.json").write_text(said.getvalue())
        return json.loads(said.getvalue())

    monkeypatch.setattr(export, "prove", prove)
    yield


MANY = f"tokenizer.add_tokens=[{', '.join(f'new{i}' for i in range(20))}]"
MERGED = {
    "tied and resized": ([MANY, "adapter.modules_to_save=[embed_tokens, lm_head]"], 2e-6),
    "fp4 of bf16": (["quantization={quant_type: fp4}", "training.precision=bf16", "export.dtype=fp32"], 2e-2),
    "int8": (["quantization={bits: 8}"], 1e-2),
    "a trained copy and DoRA": (["adapter.modules_to_save=[o_proj]", "adapter.use_dora=true"], 2e-6),
}


@pytest.mark.parametrize("name", MERGED)
@pytest.mark.usefixtures("proof_in_this_process")
def test_a_merged_export_is_a_plain_model_that_says_the_same(wide: Path, tmp_path: Path, name: str) -> None:
    """The share of the largest logit is tighter than what the proof allows."""
    words, allowed = MERGED[name]
    folder = tmp_path / "run"
    shared = ["export.merge=true", "export.verify=true", "training.max_steps=3", f"output_dir={folder}"]
    assert tiny.train(wide, *shared, *words) == 0
    verdict = json.loads((folder / "proof" / "verdict.json").read_text())
    assert verdict["ok"] and verdict["largest_logit_difference"] < allowed
    config = json.loads((folder / "export" / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "float32"
    assert config["vocab_size"] == (45 if name == "tied and resized" else 32)


def test_merging_rounds_once_and_keeps_the_update(wide: Path) -> None:
    """PEFT's own merge would leave a few percent of it."""
    ours = loaded(wide, "adapter.r=2")
    layer = ours.get_base_model().model.layers[1].mlp.up_proj
    stored, update = by_definition(layer.base_layer), layer.get_delta_weight("default").detach()
    ours.get_base_model().config.dtype = torch.bfloat16
    merged = dequantize.merge_quantized(ours)
    assert torch.equal(merged.model.layers[1].mlp.up_proj.weight, (stored + update).bfloat16())
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}


@pytest.mark.usefixtures("proof_in_this_process")
def test_gpt2_is_quantised_and_merged_the_right_way_round(wide: Path, tmp_path: Path) -> None:
    """Its weights are stored transposed; a square one that is not turned back would load without a word."""
    from transformers import GPT2Config

    config = GPT2Config(vocab_size=32, n_embd=64, n_layer=1, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=1)
    words = with_shape(wide, tmp_path / "gpt2", config)
    folder = tmp_path / "run"
    options = ["export.merge=true", "export.verify=true", "training.max_steps=3", f"output_dir={folder}"]
    assert tiny.train(wide, *words, *options) == 0
    assert json.loads((folder / "proof" / "verdict.json").read_text())["largest_logit_difference"] < 2e-6


@pytest.mark.parametrize("merge", ["true", "false"])
@pytest.mark.usefixtures("proof_in_this_process")
def test_biases_and_a_compute_dtype_of_its_own(wide: Path, tmp_path: Path, merge: str) -> None:
    """Layers that compute in bf16 between activations in fp32: the adapter is proven as it was trained."""
    from transformers import Qwen2Config

    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    words = with_shape(wide, tmp_path / "qwen2", Qwen2Config(vocab_size=32, num_key_value_heads=2, **shape))
    options = [f"export.merge={merge}", "export.verify=true", "training.max_steps=3", f"output_dir={tmp_path / 'run'}"]
    assert tiny.train(wide, *words, *options, "quantization={compute_dtype: bfloat16}") == 0
    off_by = json.loads((tmp_path / "run" / "proof" / "verdict.json").read_text())["largest_logit_difference"]
    assert 1e-6 < off_by < 2e-2 if merge == "true" else off_by < 1e-6


def test_loftq_starts_nearer_to_the_weights_before_quantisation(wide: Path) -> None:
    read = recipe.load(wide, ["adapter.init_lora_weights=loftq"])
    base = model.load(read, TASK, "fp32", model.load_tokenizer(read), "cpu", "float32")
    adapted = parts.load("adapters", "qlora").apply(base, read.adapter)
    plain = model.load(recipe.load(wide, ["method=lora"]), TASK, "fp32", model.load_tokenizer(read))
    layer, weight = (
        adapted.get_base_model().model.layers[0].self_attn.q_proj,
        plain.model.layers[0].self_attn.q_proj.weight,
    )
    stored = by_definition(layer.base_layer)
    assert (stored + layer.get_delta_weight("default") - weight).norm() < 0.95 * (stored - weight).norm()


# checkpoints that are quantised already


@pytest.fixture(scope="module")
def quantized_checkpoint(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    folder = shutil.copytree(wide.parent / "model", tmp_path_factory.mktemp("stored") / "nf4")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    AutoModelForCausalLM.from_pretrained(folder, quantization_config=config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("merge", ["true", "false"])
@pytest.mark.usefixtures("proof_in_this_process")
def test_a_quantised_checkpoint_is_trained_as_it_is(
    wide: Path, quantized_checkpoint: Path, tmp_path: Path, merge: str
) -> None:
    """Its own double_quant counts (false); its compute dtype (fp32) does not."""
    words = [] if merge == "true" else ["quantization={compute_dtype: bfloat16}"]
    words += [f"model.name_or_path={quantized_checkpoint}", f"export.merge={merge}", "export.verify=true"]
    assert tiny.train(wide, *words, "training.max_steps=3", f"output_dir={tmp_path / 'run'}") == 0
    verdict = json.loads((tmp_path / "run" / "proof" / "verdict.json").read_text())
    assert verdict["ok"] and verdict["largest_logit_difference"] < 2e-6
    planned = json.loads((tmp_path / "run" / "plan.json").read_text())["values"]
    assert planned["quantization"]["value"].startswith("nf4: 14 linear layers")


REFUSED = {
    "quantization={bits: 8}": "quantization.bits is 8, and the checkpoint is quantised with 4",
    "quantization={quant_type: fp4}": "quantization.quant_type is fp4, and the checkpoint is quantised with nf4",
    "quantization={double_quant: true}": "write double_quant: false",
    "quantization={skip_modules: [v_proj]}": "skip_modules: the checkpoint is quantised already",
    "adapter.modules_to_save=[o_proj]": "o_proj is quantised in the checkpoint and cannot be trained in full",
    "adapter.init_lora_weights=loftq": "what its weights were before is not known",
    "method=lora": "the checkpoint is quantised and method lora trains whole weights",
}


@pytest.mark.parametrize("word", REFUSED)
def test_a_quantised_checkpoint_is_not_contradicted(wide: Path, quantized_checkpoint: Path, word: str) -> None:
    read = recipe.load(wide, [f"model.name_or_path={quantized_checkpoint}", word])
    with pytest.raises(RecipeError, match=REFUSED[word]):
        model.facts(read, TASK, parts.load("adapters", read.method))
        adapt(read)


def adapt(read: recipe.Recipe) -> Any:
    base = model.load(read, TASK, "fp32", model.load_tokenizer(read), "cpu", "float32")
    return parts.load("adapters", read.method).apply(base, read.adapter)


def held(**config: Any) -> SimpleNamespace:
    found = SimpleNamespace(quantization_config=config)
    found.get_text_config = lambda: found
    return found


def test_other_quantisations_are_named(wide: Path) -> None:
    with pytest.raises(RecipeError, match="quantised with gptq; method qlora knows bitsandbytes only"):
        quantized_layers.scheme_of(recipe.load(wide), held(quant_method="gptq", bits=4))


def test_an_int8_checkpoint_is_not_sharded(wide: Path) -> None:
    """The recipe does not say that it is one, so the rule is applied again when the model is known."""
    read = recipe.load(wide, ["distributed.strategy=zero3"])
    facts = model.facts(read, TASK, parts.load("adapters", "qlora"))
    facts = dataclasses.replace(facts, quantized=dataclasses.replace(facts.quantized, quant_type="int8"))
    with pytest.raises(RecipeError, match="distributed.strategy: 8-bit layers hold on to their whole weights"):
        plan.make(read, World(1, 2), facts, None)


def test_a_layer_that_a_cpu_reads_wrongly_is_refused(wide: Path) -> None:
    scheme = quantized_layers.Scheme(4, "nf4", False, in_checkpoint=True)
    layout = quantized_layers.Layout(scheme, {"up": (8, 96)}, (), {}, {})
    with pytest.raises(RecipeError, match="holds up in 4 bits with 96 inputs"):
        quantize.load_options(layout, "float32", "cpu")


# refusals


def test_bitsandbytes_that_is_missing_is_said_before_any_work(wide: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    find = quantize.importlib.util.find_spec
    monkeypatch.setattr(
        quantize.importlib.util, "find_spec", lambda n, *a: None if n == "bitsandbytes" else find(n, *a)
    )
    assert tiny.train(wide, f"output_dir={tmp_path / 'run'}") == 89
    said = capsys.readouterr()
    assert "needs bitsandbytes, which is not installed; pip install 'finetune-launcher[qlora]'" in said.err
    assert "rows read" not in said.out
    with pytest.raises(EnvironmentProblem):
        quantize.load_options(layout_of(recipe.load(wide)), "float32", "cpu")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["quantization={skip_modules: [nothing]}"], "no linear layer is, or is in, nothing"),
        (["quantization={skip_modules: [layers]}"], "finds no linear layer to quantise"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_when_it_is_planned(wide: Path, words: list[str], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        model.facts(recipe.load(wide, words), TASK, parts.load("adapters", "qlora"))


def test_float16_on_a_cpu_is_refused(wide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.train(wide, "quantization={compute_dtype: float16}", f"output_dir={tmp_path / 'run'}") == 89
    assert "quantization.compute_dtype: float16 needs a GPU; use auto, bfloat16 or float32" in capsys.readouterr().err


def test_an_adapter_is_not_cast(wide: Path) -> None:
    """`launcher export --dtype` without --merge; a recipe is refused before it trains."""
    with pytest.raises(RecipeError, match="stays in the type in which it was trained; leave the dtype out, or merge"):
        export._cast(loaded(wide), export.Wanted(merge=False, dtype="bf16", verify=True))
