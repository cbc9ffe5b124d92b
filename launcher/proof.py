"""Proves an export in a process of its own: `python -P proof.py EXPORT PROOF`. Imports nothing of the launcher.

PROOF holds what the live model was before the export was written: inputs and outputs (reference.safetensors), and the hash of
every tensor in memory (reference.json). The export is loaded with plain transformers, or with PEFT for an adapter. Prints one
JSON object.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
import xxhash
from safetensors import safe_open
from safetensors.torch import load_file


def main(export: Path, proof: Path) -> int:
    expected = json.loads((proof / "reference.json").read_text())
    problems = file_problems(export)
    difference = None
    if not problems:
        model, problems = load(export, expected)
        problems += tensor_problems(model, expected["tensors"])
        differences = output_differences(model, proof)
        difference = max(off for off, _ in differences.values())
        problems += [
            f"{name} differ by {off:.3g} where {expected['tolerance']:g} of {scale:.3g} is allowed"
            for name, (off, scale) in differences.items()
            if not off <= expected["tolerance"] * scale
        ]
    print(json.dumps({"ok": not problems, "problems": problems[:10], "largest_logit_difference": difference}))
    return int(bool(problems))


def file_problems(export: Path) -> list[str]:
    """Empty files and tensors, and values that are not finite."""
    files = sorted(export.glob("*.safetensors"))
    problems = [] if files else ["no .safetensors file"]
    for path in files:
        try:
            with safe_open(path, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a dict)
                    tensor = tensors.get_tensor(name)
                    if tensor.numel() == 0:
                        problems.append(f"{path.name}: {name} is empty")
                    elif tensor.is_floating_point() and not torch.isfinite(tensor).all():
                        problems.append(f"{path.name}: {name} holds NaN or infinity")
        except Exception as error:  # safetensors raises its own type for each kind of damage
            problems.append(f"{path.name}: {error}")
    return problems


def load(export: Path, expected: dict) -> tuple[torch.nn.Module, list[str]]:
    """The model as a user would load it, and the tensors that were missing, left over or of another shape."""
    dtype = getattr(torch, expected["dtype"])
    problems: list[str] = []
    if (export / "adapter_config.json").exists():
        import peft

        base = json.loads((export / "adapter_config.json").read_text())["base_model_name_or_path"]
        model = getattr(transformers, expected["auto_class"]).from_pretrained(
            base,
            dtype=dtype,
            trust_remote_code=expected["trust_remote_code"],
            **head_options(export, expected),
            **quantized_options(base, expected),
        )
        compute_as_trained(model, expected)
        if expected["vocabulary"] and expected["vocabulary"] > model.get_input_embeddings().weight.shape[0]:
            grow(model, expected["vocabulary"])
        model = peft.PeftModel.from_pretrained(model, export)
    else:
        model, report = getattr(transformers, expected["auto_class"]).from_pretrained(
            export, dtype=dtype, output_loading_info=True, trust_remote_code=expected["trust_remote_code"]
        )
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            problems += [f"{kind.replace('_keys', '')}: {key}" for key in report[kind]]
    return model.to(expected["device"]).eval(), problems


def head_options(export: Path, expected: dict) -> dict:
    """What the adapter's own configuration says of a head that the base has not."""
    if not (export / "config.json").exists():
        return {}
    config = transformers.AutoConfig.from_pretrained(export, trust_remote_code=expected["trust_remote_code"])
    names = ("num_labels", "id2label", "label2id", "problem_type")
    return {name: getattr(config, name) for name in names} | {"ignore_mismatched_sizes": True}


def quantized_options(base: str, expected: dict) -> dict:
    """To quantise the base as it was for training. A base that is stored quantised says so itself."""
    if expected["quantization"] is None:
        return {}
    options, trust = {"device_map": {"": expected["device"]}}, expected["trust_remote_code"]
    if (
        getattr(transformers.AutoConfig.from_pretrained(base, trust_remote_code=trust), "quantization_config", None)
        is None
    ):
        options["quantization_config"] = transformers.BitsAndBytesConfig(**expected["quantization"])
    return options


def compute_as_trained(model: torch.nn.Module, expected: dict) -> None:
    """bitsandbytes has an inference path of its own on some CPUs, which rounds scales to bf16: compare without it."""
    if expected["quantization"] is None:
        return
    dtype = getattr(torch, expected["quantization"]["bnb_4bit_compute_dtype"])
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.compute_dtype, module.support_avx512bf16_for_cpu = dtype, False


def grow(model: torch.nn.Module, vocabulary: int) -> None:
    """New rows are the adapter's business; in the base they are zero, as where it was trained."""
    known = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(vocabulary, mean_resizing=False)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        for tensor in (getattr(module, "weight", None), getattr(module, "bias", None)):
            if tensor is not None:
                tensor.data[known:] = 0


def tensor_problems(model: torch.nn.Module, expected: dict[str, list]) -> list[str]:
    """Tensors that are not bit for bit those of the live model."""
    found = fingerprints(model)
    missing = [f"{name}: missing" for name in expected if name not in found]
    changed = [
        f"{name}: {found[name][:2]} differs from the trained {expected[name][:2]}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    return missing + changed


def fingerprints(model: torch.nn.Module) -> dict[str, list]:
    """name -> [dtype, shape, hash of the bytes] of every tensor of the state."""
    return {name: fingerprint(tensor) for name, tensor in model.state_dict().items() if torch.is_tensor(tensor)}


def fingerprint(tensor: torch.Tensor) -> list:
    return [str(tensor.dtype), list(tensor.shape), _hash(tensor)]


def output_differences(model: torch.nn.Module, proof: Path) -> dict[str, tuple[float, float]]:
    """Output -> the largest difference of a number from the live model's, and its largest number."""
    tensors = load_file(proof / "reference.safetensors", device=str(next(model.parameters()).device))
    named = {kind: {} for kind in ("input", "output")}
    for name, tensor in tensors.items():
        kind, _, own_name = name.partition(".")
        named[kind][own_name] = tensor
    with torch.no_grad():
        said = model(**named["input"])
    return {name: difference(said[name].float(), wanted) for name, wanted in named["output"].items()}


def difference(found: torch.Tensor, wanted: torch.Tensor) -> tuple[float, float]:
    """The largest difference, infinite for another shape, and the largest number."""
    if found.shape != wanted.shape:
        return float("inf"), 1.0
    return float((found - wanted).abs().max()), float(wanted.abs().max())


def _hash(tensor: torch.Tensor) -> str:
    return xxhash.xxh3_128_hexdigest(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
