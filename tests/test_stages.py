"""Stages: what moves in each, what follows what, and that a run goes on inside and at the end of one as if nothing had been."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import tiny_tasks
from safetensors.torch import load_file

from launcher import recipe as recipes
from launcher import schedules
from launcher.errors import RecipeErrors

STAGES = """\
stages:
  - {name: head, trainable: [head], training: {max_steps: 2}, optimizer: {learning_rate: 3.0e-2}}
  - {name: top, trainable: [head, "layers[-1]"], training: {max_steps: 3}, scheduler: {name: linear, warmup_steps: 1}}
  - {name: all, training: {max_steps: 2}}
"""
ENDS = {"head": 2, "top": 5, "all": 7}
OPTIONS = ["checkpoint={save_steps: 1, save_total_limit: 20}", "evaluation.metrics=[loss]"]


@pytest.fixture(scope="module")
def staged(recipe: Path) -> Path:
    """The tiny recipe, trained in full, in three stages."""
    path = recipe.with_name("staged.yaml")
    text = recipe.read_text().replace("method: lora", "method: full").replace("adapter: {r: 4, lora_alpha: 8}\n", "")
    path.write_text(text.replace(", warmup_steps: 2", "") + STAGES)
    return path


@pytest.fixture(scope="module")
def finished(staged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages") / "run"
    assert tiny.train(staged, *OPTIONS, f"output_dir={folder}") == 0
    return folder


def weights(run: Path, step: int) -> dict[str, bytes]:
    (file,) = (run / "checkpoints" / f"step-{step:08d}" / "model").glob("model*.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(file).items()}


def test_each_stage_moves_what_it_trains_and_nothing_else(finished: Path) -> None:
    names = weights(finished, 1).keys()
    moving = {
        "head": {"lm_head.weight"},
        "top": {"lm_head.weight", *(name for name in names if ".layers.1." in name)},
        "all": set(names),
    }
    begin = 1
    for name, end in ENDS.items():
        before, after = weights(finished, begin), weights(finished, end)
        assert {key for key in names if before[key] != after[key]} == moving[name], name
        begin = end


def test_each_stage_has_its_learning_rate_and_its_schedule_over_its_own_steps(finished: Path) -> None:
    def rate(peak: float, name: str, step: int, length: int, warmup: int) -> float:
        return peak * schedules.factor(name, step, length, warmup, schedules.Options())

    expected = [rate(3e-2, "cosine", step, 2, 0) for step in range(2)]
    expected += [rate(1e-2, "linear", step, 3, 1) for step in range(3)]
    expected += [rate(1e-2, "cosine", step, 2, 0) for step in range(2)]
    assert list(tiny.losses(finished, "train/learning_rate").values()) == pytest.approx(expected, rel=1e-12)


def test_a_head_that_is_kept_is_not_called_new_and_the_plan_is_that_of_the_last_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe = tiny_tasks.make("text_classification", tmp_path)
    words = ["linear_probe_then_finetune={max_steps: 1}", "training.max_steps=1", f"output_dir={tmp_path / 'run'}"]
    assert tiny.train(recipe, *words) == 0
    said = capsys.readouterr().out
    assert said.count("new in the model, from random weights: classifier") == 1
    assert f"data.train is {tmp_path / 'train.csv'}" in said
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())["values"]
    assert plan["trainable_parameters"]["value"] == plan["parameters"]["value"]


def test_the_report_draws_the_planned_rate_and_where_stages_begin(finished: Path) -> None:
    schedule = json.loads((finished / "schedule.json").read_text())
    used = tiny.losses(finished, "train/learning_rate")
    assert dict(schedule["learning_rate"]) == pytest.approx(used)
    assert [name for _, name in schedule["stages"]] == list(ENDS)
    page = (finished / "report.html").read_text()
    assert all(f"<title>stage {name}</title>" in page for name in ENDS)
    assert page.count(' dashed"') == 1


@pytest.mark.parametrize("step", [2, 3, 5, 6])
def test_resumed_at_the_end_of_a_stage_and_inside_one_equals_uninterrupted(
    staged: Path, finished: Path, tmp_path: Path, step: int
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "export")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] <= step))
    for path in (folder / "checkpoints").glob("step-*"):
        if int(path.name[5:]) > step:
            shutil.rmtree(path)
    assert tiny.train(staged, *OPTIONS, f"output_dir={folder}", "--resume", "auto") == 0
    for name in ("train/loss", "train/grad_norm", "train/learning_rate", "eval/loss"):
        assert tiny.losses(folder, name) == tiny.losses(finished, name)
    assert (folder / "export/model.safetensors").read_bytes() == (finished / "export/model.safetensors").read_bytes()


def test_stages_that_change_nothing_are_one_training(staged: Path, tmp_path: Path) -> None:
    """Rows go on in their order, so that without momentum and with a constant rate the cut leaves no trace."""
    plain = [*OPTIONS, "optimizer={name: sgd, learning_rate: 0.1}", "scheduler.name=constant"]
    cut = "stages=[{name: a, training: {max_steps: 3}}, {name: b, training: {max_steps: 4}}]"
    assert tiny.train(staged, *plain, "stages=[]", "training.max_steps=7", f"output_dir={tmp_path / 'one'}") == 0
    assert tiny.train(staged, *plain, cut, f"output_dir={tmp_path / 'two'}") == 0
    for name in ("train/loss", "train/grad_norm"):
        assert tiny.losses(tmp_path / "two", name) == tiny.losses(tmp_path / "one", name)


def test_a_stage_has_data_and_a_loss_of_its_own(staged: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    turns = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sees a dog"}]
    other.write_text("\n".join([json.dumps({"messages": turns})] * 5) + "\n")
    second = f"{{name: b, data: {{train: [{{path: {other}}}]}}, training: {{num_train_epochs: 2}}}}"
    stages = f"stages=[{{name: a, training: {{max_steps: 2}}}}, {second}]"
    assert tiny.train(staged, *OPTIONS, stages, f"output_dir={tmp_path / 'run'}") == 0
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 2 + 2 * 2, "two epochs of five rows in batches of four"
    assert lines[-1]["epoch"] == 2.0
    plan = json.loads((tmp_path / "run/plan.json").read_text())["values"]
    assert [plan[name]["value"] for name in ("stage", "first_step", "last_step", "total_steps")] == ["b", 2, 6, 6]


def test_two_processes_train_the_stages_as_one(staged: Path, finished: Path, tmp_path: Path) -> None:
    """Under zero3, where most has to be taken down and built again."""
    log = tmp_path / "zero3.log"
    words = ["train", str(staged), *OPTIONS, "distributed.strategy=zero3", f"output_dir={tmp_path / 'zero3'}"]
    assert tiny.Ranks(2, words, log).wait() == [0, 0], log.read_text()
    for name in ("train/loss", "eval/loss"):
        assert tiny.losses(tmp_path / "zero3", name) == pytest.approx(tiny.losses(finished, name), rel=1e-5)


def test_a_resume_with_other_stages_is_refused(
    staged: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    changed = "stages.1.trainable=[head]"
    assert tiny.train(staged, *OPTIONS, changed, f"output_dir={tmp_path / 'run'}", "--resume", "auto") == 89
    assert "stages.1 was" in capsys.readouterr().err


def test_the_shorthands_are_the_stages_that_they_stand_for(staged: Path) -> None:
    loaded = recipes.load(staged, ["stages=[]", "gradual_unfreezing={layers_per_stage: 2, max_steps: 3}"])
    made = [(stage.trainable, stage.training.max_steps) for _, stage in loaded.in_stages(5)]
    top, more = ("head", "layers[-2:]"), ("head", "layers[-4:]")
    assert made == [(("head",), 3), (top, 3), (more, 3), (None, 6)]
    probe = "linear_probe_then_finetune={num_train_epochs: 2.0, learning_rate: 0.5}"
    first, second = (stage for _, stage in recipes.load(staged, ["stages=[]", probe]).in_stages(0))
    assert (first.trainable, first.training.num_train_epochs, first.training.max_steps) == (("head",), 2.0, None)
    assert (first.optimizer.learning_rate, second.optimizer.learning_rate) == (0.5, 1e-2)
    assert (second.trainable, second.training.max_steps) == (None, 6)


def test_gradual_unfreezing_trains(staged: Path, tmp_path: Path) -> None:
    words = ["stages=[]", "gradual_unfreezing={max_steps: 1}", "training.max_steps=1", f"output_dir={tmp_path / 'run'}"]
    assert tiny.train(staged, *OPTIONS, *words) == 0
    first, second = weights(tmp_path / "run", 1), weights(tmp_path / "run", 2)
    assert {key for key in first if first[key] != second[key]} == {
        "lm_head.weight",
        *(name for name in first if ".layers.1." in name),
    }


def test_a_resolved_recipe_has_the_same_stages(staged: Path, tmp_path: Path) -> None:
    loaded = recipes.load(staged)
    (tmp_path / "resolved.yaml").write_text(loaded.to_yaml())
    again = recipes.load(tmp_path / "resolved.yaml")
    assert [stage for _, stage in again.in_stages(0)] == [stage for _, stage in loaded.in_stages(0)]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.1.optimizer.lerning_rate=3", "lerning_rate is not an option of adamw; did you mean learning_rate?"),
        ("stages.1.name=head", "head is the name of two stages"),
        ('stages.0.trainable=["layer[:3]"]', "layer[:3] is no selection; write layers[3]"),
        ('freeze=["layers[]"]', "layers[] is no selection"),
        ("stages.0.loss.foo=1", "loss.foo is not an option of causal_lm"),
        ("stages.0.training.save_steps=2", "save_steps is not an option of stages.training"),
        ("gradual_unfreezing={}", "stages is given as well; give one of them"),
        ("stages.2.scheduler.decay_steps=2", "scheduler.decay_steps: is for name: wsd"),
    ],
)
def test_what_is_wrong_with_a_stage_is_said_before_anything_is_loaded(
    staged: Path, override: str, message: str
) -> None:
    with pytest.raises(RecipeErrors) as found:
        recipes.load(staged, [override])
    assert message in str(found.value)
