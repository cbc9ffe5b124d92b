"""What is put on top of the loss: a penalty on weights that a step adds once, and dropout that the recipe decides."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file

from launcher import chance, noise
from launcher import recipe as recipes
from launcher.errors import RecipeError, RecipeErrors

ONE_STEP = [
    "training.max_steps=1",
    "training.max_grad_norm=null",
    "data.eval=[]",
    "evaluation=null",
    "optimizer.name=sgd",
]
RATE = 0.5
FULL = ["method=full", "adapter=null", f"optimizer={{name: sgd, learning_rate: {RATE}}}"]
FULL += ["scheduler={name: constant, warmup_steps: 0}"]


def weights(run: Path) -> dict:
    return load_file(next((run / "checkpoints").glob("step-*")) / "model" / "model.safetensors")


def trained(recipe: Path, folder: Path, *more: str) -> dict:
    words = [*FULL, *ONE_STEP, "optimizer.weight_decay=0.0", f"output_dir={folder}", *more]
    assert tiny.train(recipe, *words) == 0
    return weights(folder)


@pytest.fixture(scope="module")
def plain(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    return trained(recipe, tmp_path_factory.mktemp("l1") / "plain")


@pytest.mark.parametrize("rows", [1, 4])
def test_l1_moves_each_weight_by_its_sign_once_a_step(recipe: Path, plain: dict, tmp_path: Path, rows: int) -> None:
    """A step of SGD with the penalty differs from one without by -rate * l1 * sign(w), whatever the accumulation."""
    l1 = 0.01
    words = [f"regularization.l1={l1}", f"training.per_device_train_batch_size={rows}"]
    penalized, before = (
        trained(recipe, tmp_path / "run", *words),
        load_file(recipe.parent / "model" / "model.safetensors"),
    )
    for name, start in before.items():
        expected = -RATE * l1 * start.sign() if start.ndim >= 2 else start * 0
        assert (penalized[name] - plain[name] - expected).abs().max() < 1e-6, name
    assert RATE * l1 > 1000 * 1e-6


@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_l1_is_the_same_for_two_processes(recipe: Path, plain: dict, tmp_path: Path, strategy: str) -> None:
    one = trained(recipe, tmp_path / "one", "regularization.l1=0.01")
    words = [
        *FULL,
        *ONE_STEP,
        "optimizer.weight_decay=0.0",
        "regularization.l1=0.01",
        f"distributed.strategy={strategy}",
    ]
    log = tmp_path / "two.log"
    assert tiny.Ranks(2, ["train", str(recipe), *words, f"output_dir={tmp_path / 'two'}"], log).wait() == [0, 0], (
        log.read_text()
    )
    two = weights(tmp_path / "two")
    assert max(float((two[name] - one[name]).abs().max()) for name in one) < 1e-6


def test_dropout_of_the_recipe_is_the_models_and_goes_into_the_plan(recipe: Path, tmp_path: Path) -> None:
    losses = {}
    for probability in (0.0, 0.5):
        folder = tmp_path / str(probability)
        words = ["training.max_steps=3", "data.eval=[]", "evaluation=null", f"output_dir={folder}"]
        assert tiny.train(recipe, *words, f"regularization.dropout={probability}") == 0
        losses[probability] = tiny.losses(folder)
        said = json.loads((folder / "plan.json").read_text())["values"]["same_result"]["value"]
        assert ("has dropout" in said) is (probability > 0)
    assert losses[0.0] != losses[0.5]


def overrides(model_type: str, dropout: object) -> dict[str, float]:
    recipe = SimpleNamespace(regularization=SimpleNamespace(dropout=dropout), origin=lambda key: key)
    return chance.overrides(transformers.AutoConfig.for_model(model_type), recipe)


def test_one_number_is_for_all_dropout_and_no_layer_is_dropped_whole() -> None:
    bert = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3, "classifier_dropout": 0.3}
    assert overrides("bert", 0.3) == bert
    assert "drop_path_rate" not in overrides("segformer", 0.3)
    assert "layerdrop" not in overrides("wav2vec2", 0.3)


def test_patterns_name_fields_of_the_configuration() -> None:
    assert overrides("bert", {"hidden*": 0.2, "classifier_dropout": 0.0}) == {
        "hidden_dropout_prob": 0.2,
        "classifier_dropout": 0.0,
    }
    assert overrides("convnext", {"drop_path_rate": 0.1}) == {"drop_path_rate": 0.1}
    with pytest.raises(RecipeError, match="no dropout of a bert model; it has .*did you mean hidden_dropout_prob"):
        overrides("bert", {"hiden_dropout_prob": 0.1})
    with pytest.raises(RecipeError, match="it has no dropout"):
        overrides("resnet", 0.1)


def test_noise_is_as_large_as_the_paper_says_and_only_while_training() -> None:
    model = transformers.AutoModel.from_config(
        transformers.AutoConfig.for_model("bert", hidden_size=12, num_hidden_layers=1)
    )
    ids, embeddings = torch.arange(1, 19).view(2, 9), model.get_input_embeddings()
    plain = embeddings(ids)
    noise.on_embeddings(model, 5.0)
    torch.manual_seed(3)
    noisy = embeddings.train()(ids) - plain
    torch.manual_seed(3)
    largest = 5.0 / (9 * 12) ** 0.5
    torch.testing.assert_close(noisy, torch.empty_like(noisy).uniform_(-largest, largest), rtol=0, atol=1e-6)
    assert noisy.abs().max() > 0.8 * largest
    assert torch.equal(embeddings.eval()(ids), plain)


def test_a_run_trains_with_noise_says_so_and_evaluates_without(recipe: Path, tmp_path: Path) -> None:
    before, after = {}, {}
    for alpha in (0.0, 5.0):
        folder = tmp_path / str(alpha)
        words = ["training.max_steps=3", "evaluation.metrics=[loss]", f"output_dir={folder}"]
        assert tiny.train(recipe, *words, f"regularization.neftune_noise_alpha={alpha}") == 0
        said = json.loads((folder / "plan.json").read_text())["values"]["same_result"]["value"]
        assert ("has noise" in said) is (alpha > 0)
        before[alpha], after[alpha] = tiny.losses(folder, "eval/loss")[0], tiny.losses(folder)[1]
    assert before[0.0] == before[5.0]
    assert after[0.0] != after[5.0]


def test_noise_is_refused_where_there_are_no_tokens(recipe: Path, tmp_path: Path) -> None:
    import tiny_tasks

    with pytest.raises(
        RecipeErrors, match="neftune_noise_alpha: is for embeddings of tokens, and image_classification"
    ):
        recipes.load(tiny_tasks.make("image_classification", tmp_path), ["regularization.neftune_noise_alpha=5.0"])


def test_group_lasso_pulls_each_input_of_the_head_by_its_direction(tmp_path: Path) -> None:
    """A step of SGD differs from one without by -rate * factor * sqrt(labels) * column / |column|, and by nothing elsewhere."""
    import tiny_tasks

    recipe, factor, found = tiny_tasks.make("text_classification", tmp_path), 0.02, {}
    for name, more in (("plain", []), ("pulled", [f"regularization.group_lasso={factor}"])):
        found[name] = trained(recipe, tmp_path / name, "training.global_batch_size=8", *more)
    start = classifier_at_the_start(recipe, tmp_path)
    pulled = {name: found["pulled"][name] - value for name, value in found["plain"].items()}
    weight = pulled.pop("classifier.weight")
    expected = -RATE * factor * len(start) ** 0.5 * start / start.norm(dim=0)
    assert (weight - expected).abs().max() < 1e-6 < 1e-3 * expected.abs().max()
    assert max(float(value.abs().max()) for value in pulled.values()) == 0


def classifier_at_the_start(recipe: Path, folder: Path) -> torch.Tensor:
    """Of the same seed, after a step that moves nothing."""
    words = ["training.global_batch_size=8", "optimizer.learning_rate=1.0e-30"]
    return trained(recipe, folder / "start", *words)["classifier.weight"]


def test_a_head_that_is_not_trained_has_no_group_lasso(recipe: Path, capsys: pytest.CaptureFixture) -> None:
    assert tiny.train(recipe, "regularization.group_lasso=0.1", "data.eval=[]", "evaluation=null") == 89
    assert "group_lasso: the head is not trained" in capsys.readouterr().err


def test_balanced_rows_are_in_the_plan_and_refused_beside_balanced_weights(tmp_path: Path) -> None:
    import tiny_tasks

    recipe = tiny_tasks.make("text_classification", tmp_path)
    words = [*ONE_STEP, "data.sampling=balanced", "training.global_batch_size=4"]
    assert tiny.train(recipe, *words, f"output_dir={tmp_path / 'run'}") == 0
    with pytest.raises(RecipeErrors, match="class_weights: data.sampling: balanced has evened out"):
        recipes.load(recipe, ["data.sampling=balanced", "loss.class_weights=balanced"])
    with pytest.raises(RecipeErrors, match="data.sampling: token_classification does not use it"):
        recipes.load(tiny_tasks.make("token_classification", tmp_path / "tags"), ["data.sampling=balanced"])
