"""README.md of an export: front matter that the hub reads, how to load it, what it was trained on, and what it is worth."""

from pathlib import Path
from typing import Any

from launcher import parts, token_rows
from launcher.plan import Plan
from launcher.processor import AUTO_CLASSES
from launcher.recipe import Recipe


def write(recipe: Recipe, plan: Plan, model: Any, step: int, metrics: dict[str, float], merged: bool) -> str:
    """`model`: as it is trained, before it is merged; `step`: the one that is exported; `metrics`: at that step."""
    base = recipe.model.name_or_path
    is_plain = recipe.method == "full" or merged
    front = ["---", "library_name: " + ("transformers" if is_plain else "peft")]
    front += [f"base_model: {base}"] if base and not Path(base).exists() else []
    front += [f"pipeline_tag: {parts.load('tasks', recipe.task).TRAITS.pipeline_tag}"]
    front += ["tags:", f"- {recipe.task}", f"- {recipe.method}", "---"]
    data = "\n".join(
        f"- {which}: `{Path(s.path).name if Path(s.path).exists() else s.path}`"
        for which in ("train", "eval")
        for s in getattr(recipe.data, which)
    )
    table = "\n".join(f"| {name} | {value:.6g} |" for name, value in metrics.items())
    return "\n".join(
        [
            *front,
            f"\n# {recipe.name}\n",
            f"{plan.model} trained with method `{recipe.method}` for {step} steps of {plan.global_batch_size} rows",
            f"(base: `{Path(base).name if base and Path(base).exists() else base or 'random weights'}`{_stored(plan)}).",
            "The update is folded into the weights.\n" if merged and recipe.method != "full" else "",
            "## Use\n",
            f"```python\n{_code(recipe, model, is_plain)}\n```\n",
            "`launcher predict FOLDER INPUT...` predicts from the command line.\n",
            "## Data\n",
            data,
            "\n## Metrics\n",
            "| metric | value |\n| --- | --- |\n" + table if table else f"None were taken at step {step}.",
            "\n## Recipe\n",
            f"```yaml\n{recipe.to_yaml()}```\n",
        ]
    )


def _code(recipe: Recipe, model: Any, is_plain: bool) -> str:
    """How plain transformers, with peft beside it for an adapter, loads the export. `folder` is where it lies."""
    traits = parts.load("tasks", recipe.task).TRAITS
    trust = ", trust_remote_code=True" if recipe.model.trust_remote_code else ""
    processor = AUTO_CLASSES[traits.processor]
    names, options = {traits.auto_class, processor}, trust
    load: list[str] = []
    last = [f"{traits.processor} = {processor}.from_pretrained(folder)"]
    if is_plain:
        load.append(f"model = {traits.auto_class}.from_pretrained(folder{options})")
        return "\n".join([f"from transformers import {', '.join(sorted(names))}", "", *load, *last])
    base = model.get_base_model()
    if getattr(base, "head_modules", ()):  # the base knows nothing of these labels, the adapter brings their layers
        names.add("AutoConfig")
        load.append(f"labels = AutoConfig.from_pretrained(folder{trust})")
        options += "".join(f", {name}=labels.{name}" for name in ("id2label", "label2id", "problem_type"))
        options += ", ignore_mismatched_sizes=True"
    if getattr(base.config, "quantization_config", None) is not None:
        names.add("BitsAndBytesConfig")
        quantization = base.config.quantization_config.to_diff_dict()
        said = ", ".join(f"{name}={value!r}" for name, value in sorted(quantization.items()) if name != "quant_method")
        options += f", quantization_config=BitsAndBytesConfig({said})"
    name = next(iter(model.peft_config.values())).base_model_name_or_path
    name = str(Path(name).resolve()) if Path(name).is_dir() else name
    load.append(f"base = {traits.auto_class}.from_pretrained({name!r}{options})")
    if recipe.tokenizer.add_tokens:
        load.append(f"base.resize_token_embeddings({token_rows.number(base)})")
    load.append("model = PeftModel.from_pretrained(base, folder)")
    head = ["from peft import PeftModel", f"from transformers import {', '.join(sorted(names))}", ""]
    return "\n".join([*head, *load, *last])


def _stored(plan: Plan) -> str:
    return f", trained beside weights in {plan.quantization}" if plan.quantization else ""
