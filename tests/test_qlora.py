"""A quantised base trains like the weights that it stands for, and is proven as what was trained."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from quantized import SCHEMES, TASK, away_from_zero, batch, by_definition, layout_of, loaded, with_shape
from torch import Tensor

from launcher import dequantize, model, parts, processor, quantize, recipe
from launcher.errors import EnvironmentProblem

STEPS = 10


def reference_of(quantized: Any, path: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Plain LoRA on an unquantised model that holds what the quantised one stands for, dequantised here by the definition."""
    read = recipe.load(path, ["method=lora", "quantization=null"])
    base = model.load(read, TASK, "fp32", processor.load_tokenizer(read))
    layers = dict(quantized.get_base_model().named_modules())
    for name, module in base.named_modules():
        if isinstance(module, torch.nn.Linear) and (layer := getattr(layers[name], "base_layer", None)) is not None:
            module.weight.data = by_definition(layer)
    adapted = away_from_zero(parts.load("adapters", "lora").apply(base, read.adapter))
    return adapted.to(dtype)


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
    base = model.load(read, TASK, "fp32", processor.load_tokenizer(read), "cpu", "float32")
    adapted = parts.load("adapters", "qlora").apply(base, read.adapter)
    plain = model.load(recipe.load(wide, ["method=lora"]), TASK, "fp32", processor.load_tokenizer(read))
    layer, weight = (
        adapted.get_base_model().model.layers[0].self_attn.q_proj,
        plain.model.layers[0].self_attn.q_proj.weight,
    )
    stored = by_definition(layer.base_layer)
    assert (stored + layer.get_delta_weight("default") - weight).norm() < 0.95 * (stored - weight).norm()


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


def test_bitsandbytes_that_is_missing_is_said_before_any_work(wide: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    find = quantize.importlib.util.find_spec
    monkeypatch.setattr(
        quantize.importlib.util, "find_spec", lambda n, *a: None if n == "bitsandbytes" else find(n, *a)
    )
    assert tiny.train(wide, f"output_dir={tmp_path / 'run'}") == 89
    said = capsys.readouterr()
    assert "needs bitsandbytes, which is not installed; pip install bitsandbytes" in said.err
    assert "rows read" not in said.out
    with pytest.raises(EnvironmentProblem):
        quantize.load_options(layout_of(recipe.load(wide)), "float32", "cpu")


def test_float16_on_a_cpu_is_refused(wide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.train(wide, "quantization={compute_dtype: float16}", f"output_dir={tmp_path / 'run'}") == 89
    assert "quantization.compute_dtype: float16 needs a GPU; use auto, bfloat16 or float32" in capsys.readouterr().err
