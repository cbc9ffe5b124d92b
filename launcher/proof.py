"""Proves an export in a process of its own: `python -P proof.py EXPORT PROOF`. Imports nothing of the launcher.

PROOF holds what the live model was before the export was written: inputs and logits (reference.safetensors), and the hash of
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
        difference, scale = logits_difference(model, proof)
        if not difference <= expected["tolerance"] * scale:
            problems.append(
                f"logits differ by {difference:.3g} where {expected['tolerance']:g} of {scale:.3g} is allowed"
            )
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
            base, dtype=dtype, trust_remote_code=expected["trust_remote_code"]
        )
        if len(expected["tensors"]) and expected["vocabulary"] > model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(expected["vocabulary"], mean_resizing=False)
        model = peft.PeftModel.from_pretrained(model, export)
    else:
        model, report = getattr(transformers, expected["auto_class"]).from_pretrained(
            export, dtype=dtype, output_loading_info=True, trust_remote_code=expected["trust_remote_code"]
        )
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            problems += [f"{kind.replace('_keys', '')}: {key}" for key in report[kind]]
    return model.to(expected["device"]).eval(), problems


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


def logits_difference(model: torch.nn.Module, proof: Path) -> tuple[float, float]:
    """Largest difference of a logit from the live model's, and the largest logit."""
    tensors = load_file(proof / "reference.safetensors", device=str(next(model.parameters()).device))
    inputs = {name.removeprefix("input."): tensor for name, tensor in tensors.items() if name.startswith("input.")}
    with torch.no_grad():
        logits = model(**inputs).logits.float()
    if logits.shape != tensors["logits"].shape:
        return float("inf"), 1.0
    return float((logits - tensors["logits"]).abs().max()), float(tensors["logits"].abs().max())


def _hash(tensor: torch.Tensor) -> str:
    return xxhash.xxh3_128_hexdigest(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
