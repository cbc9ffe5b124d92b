"""A file imports only from its own layer or from those above it in the table of CONTRIBUTING.md."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    {"errors", "log", "shipped", "launcher_kernels", ""},
    {
        "recipe",
        "support",
        "support_table",
        "schema",
        "section",
        "suggest",
        "parts",
        "schedules",
        "data",
        "metrics",
        "heads",
        "shards",
        "losses",
        "adam",
        "optimizer_options",
        "lora",
        "lora_start",
        "prompts",
        "token_rows",
        "quantized_layers",
        "quantize",
        "dequantize",
        "run_folder",
        "objectives",
        "generation",
        "chance",
        "task",
    },
    {"tasks", "adapters", "optimizers", "trackers"},
    {
        "plan",
        "memory",
        "model_facts",
        "rhythm",
        "continuity",
        "strategy",
        "zero_config",
        "zero_keys",
        "saved_state",
        "tensor_files",
        "world",
        "notes",
        "batch_size",
        "weight_storage",
        "precision",
        "loss_scale",
        "activations",
        "activation_memory",
        "model",
        "model_init",
        "image_size",
        "shape_trial",
        "batch_norm",
        "new_head",
        "processor",
        "engine",
        "checkpoint",
        "export",
        "proof",
        "output",
        "environment",
        "faults",
        "spawn",
        "meter",
        "network",
        "peers",
        "consistency",
        "selection",
        "noise",
        "penalty",
        "param_groups",
        "inventory",
        "remedies",
        "known_models",
    },
    {
        "loop",
        "lr_find",
        "evaluate",
        "evaluation_pictures",
        "rows",
        "stages",
        "plateau",
        "predict",
        "explain",
        "run",
        "restore",
        "story",
        "model_card",
        "unshard",
        "verify_math",
        "report",
        "sweep",
    },
    {"verbs", "__main__"},
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
FILES = sorted((ROOT / "launcher").rglob("*.py"))
HEAVY = {"torch", "transformers", "accelerate", "deepspeed", "peft", "datasets"}


def imported(path: Path) -> list[tuple[str, bool]]:
    """(dotted module, whether it is imported when the file is) of every import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_top = {id(node) for node in ast.walk(tree) if not isinstance(node, ast.FunctionDef)} - {
        id(inner)
        for f in ast.walk(tree)
        if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(f)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in at_top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"launcher.{alias.name}" for alias in node.names] if node.module == "launcher" else [node.module]
            found += [(name, id(node) in at_top) for name in inside]
    return found


def home(path: Path) -> str:
    """The file or folder of launcher/ that a file belongs to."""
    return path.relative_to(ROOT / "launcher").with_suffix("").parts[0].replace("__init__", "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_from_its_own_layer_or_above(path: Path) -> None:
    assert home(path) in LAYER, f"{path.name} stands in no layer of this table"
    for module, _ in imported(path):
        words = module.split(".")
        if words[0] == "launcher" and len(words) > 1 and words[1] in LAYER:
            assert LAYER[words[1]] <= LAYER[home(path)], f"{path} imports {module}, which lies below it"
        if words[0] == "launcher_kernels":
            assert home(path) == "losses", "launcher/losses.py is the one door to the kernels"
        if words[0] in ("accelerate", "deepspeed"):
            assert home(path) == "engine", f"only engine.py may import {words[0]}"


@pytest.mark.parametrize("kind", ["tasks", "adapters", "optimizers", "trackers"])
def test_parts_do_not_import_each_other(kind: str) -> None:
    for path in sorted((ROOT / "launcher" / kind).rglob("*.py")):
        for module, _ in imported(path):
            words = module.split(".")
            if (
                words[0] == "launcher"
                and len(words) > 2
                and words[1] in ("tasks", "adapters", "optimizers", "trackers")
            ):
                own = path.relative_to(ROOT / "launcher").with_suffix("").parts[:2]
                assert tuple(words[1:3]) == own, f"{path} imports {module}"


def test_options_and_verbs_do_not_wait_for_torch() -> None:
    light = ["verbs", "adapters", "optimizers", "trackers"]
    files = [path for kind in light for path in (ROOT / "launcher" / kind).rglob("*.py")]
    files += list((ROOT / "launcher" / "tasks").glob("*/__init__.py")) + [ROOT / "launcher" / "__main__.py"]
    for path in files:
        heavy = {module.split(".")[0] for module, at_top in imported(path) if at_top} & HEAVY
        assert not heavy, f"{path} imports {heavy} when it is imported"


def test_the_folder_kernels_stays_a_source_root() -> None:
    """A package named `kernels` would shadow Hugging Face's, which transformers imports where it is installed."""
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert [p.name for p in (ROOT / "kernels").iterdir() if (p / "__init__.py").exists()] == ["launcher_kernels"]
