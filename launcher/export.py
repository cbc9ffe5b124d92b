"""The trained model as a plain Hugging Face folder, published only after a fresh process has proven it.

export/   adapter_model.safetensors or model.safetensors, configuration, tokenizer, generation settings, model card
proof/    what the live model said before the export was written, and the verdict
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file

from launcher import checkpoint, dequantize, proof, tensor_files, token_rows
from launcher.errors import CheckpointError, Preempted, RecipeError, StorageError
from launcher.model import DTYPES
from launcher.objectives.inputs import in_type_of

# Logits may differ from the live model's by this share of the largest logit. Unmerged tensors are bit-equal, so only the order of
# additions can differ; merging rounds W + BA once to the type of W. A quantised base computes in a type of its own.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
REFERENCE_TOKENS = 256
FACTS = "launcher.json"  # in an export: the task and the options of its data, which a Hugging Face folder does not say
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Wanted:
    """What the export is to be: adapter folded in or not, type of its weights (`auto` keeps the trained one), proven or not."""

    merge: bool
    dtype: str
    verify: bool


@dataclass(frozen=True)
class Trained:
    """What is exported. `held_out` is a padded batch of rows for the proof; `facts` is what `predict` must know besides."""

    model: Any
    processor: Any
    task: ModuleType
    adapter: ModuleType
    held_out: dict[str, Any]
    facts: dict[str, Any]


def export(trained: Trained, run_folder: Path, card: str, wanted: Wanted) -> tuple[Path, dict[str, Any] | None]:
    """Write, prove and publish `run_folder/export`. Returns the folder and the verdict (None when not verified).

    The model is cast and merged in place. A failed proof leaves `export.rejected/` and raises CheckpointError; a full disk
    leaves nothing and raises StorageError.
    """
    _cast(trained.model, wanted)
    inputs, outputs = reference(trained.model, trained.task, trained.held_out)
    own_error = dequantize.arithmetic_error(trained.model, TOLERANCE) if wanted.merge else 0.0
    model = trained.adapter.merge(trained.model) if wanted.merge else _plain(trained)
    for left in run_folder.glob(".export-*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    staged = run_folder / f".export-{secrets.token_hex(4)}"
    try:
        _write(staged, model, trained.processor, card)
        _write_facts(staged / FACTS, model, trained.facts)
        verdict = None
        if wanted.verify:
            _write_reference(run_folder / "proof", model, trained.task, inputs, outputs, own_error)
            verdict = _insist(staged, run_folder)
        final = run_folder / "export"
        if final.exists():
            _set_aside(final, run_folder / "export.previous")
        checkpoint.publish(staged, final)
        return final, verdict
    except OSError as error:
        raise StorageError(
            f"the export could not be written: {error}",
            where=str(run_folder),
            fix="free space and write it with `launcher export`; the checkpoints are untouched",
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _cast(model: Any, wanted: Wanted) -> None:
    """To the type of the export. A quantised base takes it when it is merged; only its configuration says so before."""
    if wanted.dtype == "auto":
        return
    if hasattr(model, "peft_config") and not wanted.merge:  # plain PEFT reads any adapter into fp32
        raise RecipeError("an adapter stays in the type in which it was trained", fix="leave the dtype out, or merge")
    if dequantize.is_quantized(model):
        model.get_base_model().config.dtype = DTYPES[wanted.dtype]
    else:
        model.to(DTYPES[wanted.dtype])


def reference(model: Any, task: ModuleType, held_out: dict[str, Any]) -> tuple[Tensors, Tensors]:
    """Inputs by name, and the model's outputs on them in fp32."""
    model.eval()
    traits = task.TRAITS
    inputs = {name: tensor.to(model.device) for name, tensor in held_out.items() if name not in traits.target_names}
    if traits.unit == "tokens":
        inputs = {name: tensor[:, :REFERENCE_TOKENS] for name, tensor in inputs.items()}
    inputs = in_type_of(model, inputs)
    with torch.no_grad():
        said = model(**inputs)
    return inputs, {name: said[name].float() for name in traits.output_names}


def _plain(trained: Trained) -> Any:
    """Some adapters are trained in another form than the one that is written."""
    return trained.adapter.plain(trained.model) if hasattr(trained.adapter, "plain") else trained.model


def _write(folder: Path, model: Any, processor: Any, card: str) -> None:
    _name_base_for_good(model)
    is_adapter = hasattr(model, "peft_config")
    with tensor_files.os_errors():
        model.save_pretrained(folder, **({"save_embedding_layers": False} if is_adapter else {}))
    if is_adapter and _head(model):  # the names of the labels, which the base's own configuration has not
        model.get_base_model().config.save_pretrained(folder)
    processor.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _write_facts(path: Path, model: Any, facts: dict[str, Any]) -> None:
    """With how the base of an adapter was quantised, which only its configuration in memory knows."""
    is_adapter, quantization = hasattr(model, "peft_config"), _quantization(_base(model))
    known = {**facts, "quantization": quantization.to_dict() if is_adapter and quantization else None}
    path.write_text(json.dumps(known, indent=1, ensure_ascii=False), encoding="utf-8")


def _insist(staged: Path, run_folder: Path) -> dict[str, Any]:
    """The verdict, or an error that leaves the rejected export under another name."""
    verdict = prove(staged, run_folder / "proof")
    if verdict["ok"]:
        return verdict
    rejected = run_folder / "export.rejected"
    _set_aside(staged, rejected)
    wrong = "could not be proven" if verdict.get("died") else "is not the trained model"
    raise CheckpointError(f"the export {wrong}: {'; '.join(verdict['problems'])}", where=str(rejected))


def prove(folder: Path, proof_folder: Path) -> dict[str, Any]:
    """Load an export in a fresh process without the launcher and compare it with the reference of the live model."""
    command = [sys.executable, "-P", str(Path(proof.__file__)), str(folder), str(proof_folder)]
    clean = {
        key: value
        for key, value in os.environ.items()
        if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    }
    done = subprocess.run(command, capture_output=True, text=True, env=clean, check=False)
    if done.returncode == -signal.SIGTERM:  # a job that is preempted takes its processes along
        raise Preempted(
            "the proof of the export was stopped", where=str(folder.parent), fix="write it with `launcher export`"
        )
    try:
        verdict = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        said = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        problem = f"the proving process ended with {done.returncode}: {said[0]}"
        verdict = {"ok": False, "died": True, "problems": [problem]}
    (proof_folder / "verdict.json").write_text(json.dumps(verdict, indent=1))
    return verdict


def _write_reference(
    folder: Path, model: Any, task: ModuleType, inputs: Tensors, outputs: Tensors, own_error: float
) -> None:
    folder.mkdir(exist_ok=True)
    tensors = {
        f"{kind}.{name}": tensor.cpu().contiguous()
        for kind, named in (("input", inputs), ("output", outputs))
        for name, tensor in named.items()
    }
    with tensor_files.os_errors():
        save_file(tensors, folder / "reference.safetensors")
    base = _base(model)
    facts = {
        "auto_class": task.TRAITS.auto_class,
        "dtype": str(base.dtype).removeprefix("torch."),
        "device": str(base.device),
        "tolerance": max(TOLERANCE[base.dtype], own_error),
        "quantization": quantization.to_dict() if (quantization := _quantization(base)) else None,
        "vocabulary": token_rows.number(base),
        "trust_remote_code": bool(getattr(base.config, "auto_map", None)),
        "tensors": {name: found for name, found in proof.fingerprints(model).items() if not is_unused(model, name)},
    }
    (folder / "reference.json").write_text(json.dumps(facts))


def is_unused(model: Any, name: str) -> bool:
    """Whether a tensor is what stood in a new head's place before it was trained: made by chance, and never used."""
    return any(f".{module}.original_module." in name for module in _head(model))


def _head(model: Any) -> tuple[str, ...]:
    return tuple(getattr(_base(model), "head_modules", ()))


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _quantization(base: Any) -> Any:
    return getattr(base.config, "quantization_config", None)


def _name_base_for_good(model: Any) -> None:
    """An adapter names its base model; a folder is named in full, so that the export loads from anywhere on this machine."""
    for config in getattr(model, "peft_config", {}).values():
        if config.base_model_name_or_path and Path(config.base_model_name_or_path).is_dir():
            config.base_model_name_or_path = str(Path(config.base_model_name_or_path).resolve())


def _set_aside(folder: Path, name: Path) -> None:
    shutil.rmtree(name, ignore_errors=True)
    os.replace(folder, name)
