"""Models and tokenizers from every place they can come from, and clear words where they cannot."""

import json
from pathlib import Path

import pytest
import tiny
import tiny_pictures
import tiny_tasks

from launcher import model, parts, plan, processor, recipe
from launcher.__main__ import main
from launcher.errors import EnvironmentProblem, RecipeError
from launcher.world import World

TASK = parts.load_whole("tasks", "causal_lm")


def load(loaded: recipe.Recipe):
    return model.load(loaded, TASK, "fp32", processor.load_tokenizer(loaded))


def test_a_model_that_is_nowhere_is_said_in_one_line(recipe: Path, capsys) -> None:
    assert tiny.train(recipe, "model.name_or_path=nobody/nothing") == 89
    said = capsys.readouterr().err
    assert "nobody/nothing: the tokenizer cannot be loaded" in said and "Traceback" not in said


def test_known_shapes_stand_in_where_the_hub_is_out_of_reach(recipe: Path) -> None:
    loaded = _recipe(recipe, "model.name_or_path=Qwen/Qwen3-8B")
    config, source = model.load_config(loaded)
    assert config.model_type == "qwen3" and "ships with the launcher" in source
    facts = model.facts(loaded, TASK, parts.load("adapters", "lora"))
    assert 8.1e9 < facts.parameters - facts.trainable < 8.3e9
    assert facts.loss == "fused"


def test_a_model_from_a_mapping_and_from_a_file_are_the_same(recipe: Path, tmp_path: Path) -> None:
    shape = "{model_type: llama, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, vocab_size: 32}"
    fields = {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 32,
    }
    (tmp_path / "config.json").write_text(json.dumps(fields))
    shared = ["method=full", "adapter=null", f"tokenizer.name_or_path={recipe.parent / 'model'}"]
    made = [load(_recipe(recipe, *shared, f"model.init={init}")) for init in (shape, tmp_path / "config.json")]
    assert made[0].config.to_dict() == made[1].config.to_dict()
    with pytest.raises(RecipeError, match="no valid"):
        load(_recipe(recipe, *shared, "model.init={model_type: llmaa}"))


@pytest.mark.parametrize(("family", "attention"), [("llama", "sdpa"), ("gemma2", "eager")])
def test_attention_that_a_model_has_not_is_not_taken_for_granted(recipe: Path, family: str, attention: str) -> None:
    """Gemma 2 bends its scores, which PyTorch's attention does not."""
    init = f"{{model_type: {family}, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, vocab_size: 32}}"
    words = ["method=full", "adapter=null", f"tokenizer.name_or_path={recipe.parent / 'model'}"]
    loaded = _recipe(recipe, *words, f"model.init={init}")
    assert load(loaded).config._attn_implementation == attention
    facts = model.facts(loaded, TASK, parts.load("adapters", "full"))
    made = plan.make(loaded, World(), facts, None, "no data")
    assert made.attention == attention
    assert ("has no sdpa" in made.origins["attention"]) == (attention != "sdpa")


def test_targets_that_match_nothing_are_named(recipe: Path) -> None:
    loaded = _recipe(recipe, "adapter.target_modules=[q_proj, qkv_proj]")
    with pytest.raises(RecipeError, match="qkv_proj matches no module; the model has .*q_proj"):
        parts.load("adapters", "lora").apply(load(loaded), loaded.adapter)


def test_a_folder_that_is_no_model(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EnvironmentProblem, match="cannot be loaded"):
        load(_recipe(recipe, f"model.name_or_path={tmp_path / 'empty'}"))


def test_a_chat_template_from_a_file_or_in_place(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    for given in (tmp_path / "chat.jinja", "'{{ messages }}'"):
        tokenizer = processor.load_tokenizer(_recipe(recipe, f"tokenizer.chat_template={given}"))
        assert tokenizer.chat_template == "{{ messages }}"


def _recipe(path: Path, *overrides: str) -> recipe.Recipe:
    return recipe.load(path, overrides)


def test_a_model_that_cannot_do_the_task_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_tasks.make("object_detection", tmp_path)
    tiny_pictures.save_vit(tmp_path / "vit")
    assert main(["plan", str(path), f"model.name_or_path={tmp_path / 'vit'}"]) == 89
    assert "a model of the kind vit cannot do object_detection" in capsys.readouterr().err
