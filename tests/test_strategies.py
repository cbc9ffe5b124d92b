"""none, ddp, zero1, zero2 and zero3 are the same training: losses, norms, evaluation, exports, and resuming across them."""

import ctypes
import json
import os
import shutil
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from workers import Workers

STRATEGIES = ("ddp", "zero1", "zero2", "zero3")
METHODS = {
    "lora": [],
    "full": ["method=full", "adapter=null", "optimizer.learning_rate=3e-3"],
    "head": ["adapter.modules_to_save=[lm_head]", "adapter.target_modules=[q_proj,down_proj]"],
}
# 22 rows in batches of 6 and 3 micro-batches a rank: the fourth step of every epoch is short, and ranks get unequal shares of it.
STEPS = 10
COMMON = [
    "training.global_batch_size=6",
    "training.per_device_train_batch_size=1",
    f"training.max_steps={STEPS}",
    "training.max_grad_norm=0.1",
    "evaluation.metrics=[loss]",
]
PRECISIONS = {
    "fp32": [],
    "bf16": ["training.precision=bf16"],
    "bf16 weights": ["training.precision=bf16", "model.dtype=bf16"],
}


M_MMAP_THRESHOLD = -3  # of mallopt(3)


class Lab:
    """Runs the tiny recipe in ranks that stay, each combination once."""

    def __init__(self, recipe: Path, folder: Path):
        self.recipe, self.folder = recipe, folder
        self._ranks = {world: Workers(world) for world in (1, 2)}
        self.train = cache(self._train)

    def _train(self, name: str, world: int, *words: str) -> Path:
        out = self.folder / name.replace(" ", "-")
        self.run(world, out, *words)
        return out

    def call(self, world: int, *call: Any, log: Path) -> list[Any]:
        return self._ranks[world].call(*call, log=log)

    def run(self, world: int, out: Path, *words: str) -> None:
        log = out.with_suffix(".log")
        command = ["train", str(self.recipe), *COMMON, f"output_dir={out}", *words]
        assert self._ranks[world].run(command, log) == [0] * world, log.read_text()[-4000:]

    def single(self, method: str, precision: str) -> Path:
        """The reference: one process, no wrapper."""
        words = ("distributed.strategy=none", "training.gradient_accumulation_steps=null")
        return self.train(f"{method}-{precision}-none", 1, *METHODS[method], *PRECISIONS[precision], *words)

    def many(self, method: str, precision: str, strategy: str, *more: str) -> Path:
        words = (*METHODS[method], *PRECISIONS[precision], f"distributed.strategy={strategy}", *more)
        return self.train(f"{method}-{precision}-{strategy}", 2, *words)

    def close(self) -> None:
        for ranks in self._ranks.values():
            ranks.close()


@pytest.fixture(scope="module")
def lab(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(recipe, tmp_path_factory.mktemp("strategies"))
    yield made
    made.close()


def exported(run: Path) -> dict[str, torch.Tensor]:
    (path,) = (run / "export").glob("*.safetensors")
    return load_file(path)


def largest_gap(a: dict[int, float], b: dict[int, float]) -> float:
    return max(abs(a[step] - b[step]) for step in a)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("method", METHODS)
def test_in_fp32_every_strategy_is_one_process(lab: Lab, method: str, strategy: str) -> None:
    """To rounding; and the export is proven by a fresh process that loads it with plain transformers and PEFT."""
    one, many = lab.single(method, "fp32"), lab.many(method, "fp32", strategy, "export.verify=true")
    for metric, tolerance in (("train/loss", 1e-5), ("eval/loss", 1e-5), ("train/grad_norm", 1e-4)):
        reference = tiny.losses(one, metric)
        assert tiny.losses(many, metric) == pytest.approx(reference, rel=tolerance), metric
    assert min(tiny.losses(one, "train/grad_norm").values()) > 0.1, "clipping is to be active in every step"
    assert len(tiny.losses(many)) == STEPS
    assert json.loads((many / "proof" / "verdict.json").read_text())["ok"]
    tensors, reference = exported(many), exported(one)
    assert tensors.keys() == reference.keys()
    assert all((tensors[name] - reference[name]).abs().max() < 1e-4 for name in tensors)


OTHERS = (
    "adapter.init_lora_weights=pissa_niter_2",  # decomposes weights that are sharded
    "adapter.loraplus_lr_ratio=4",  # two groups, each flattened by itself
    "optimizer.name=lion",  # a state of two kinds: a tensor and a plain number
    "optimizer.learning_rate=1e-3",
    "checkpoint.save_steps=5",
)


def test_another_start_and_another_optimizer_are_one_process_too(lab: Lab) -> None:
    one = lab.train("others-none", 1, *OTHERS, "distributed.strategy=none", "training.gradient_accumulation_steps=null")
    many = lab.train("others-zero3", 2, *OTHERS, "distributed.strategy=zero3", "export.verify=true")
    assert tiny.losses(many) == pytest.approx(tiny.losses(one), rel=1e-5)
    assert json.loads((many / "proof" / "verdict.json").read_text())["ok"]
    whole = tiny.losses(many)
    step = str(many / "checkpoints" / "step-00000005")
    lab.run(2, many, *OTHERS, "distributed.strategy=zero3", "--resume", step)
    assert tiny.losses(many) == whole


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("method", "precision"), [("lora", "bf16"), ("full", "bf16")])
def test_in_bf16_a_strategy_changes_less_than_the_precision_does(
    lab: Lab, method: str, precision: str, strategy: str
) -> None:
    one = tiny.losses(lab.single(method, precision))
    gap = largest_gap(one, tiny.losses(lab.single(method, "fp32")))
    assert gap > 1e-5
    assert largest_gap(tiny.losses(lab.many(method, precision, strategy)), one) <= gap


@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3"])
def test_bf16_weights_are_trained_through_fp32_copies(lab: Lab, strategy: str) -> None:
    """Without copies, updates smaller than a rounding of the weight are lost: that is further from fp32 than with them."""
    fp32, bare = (tiny.losses(lab.single("full", precision)) for precision in ("fp32", "bf16 weights"))
    run = lab.many("full", "bf16 weights", strategy)
    assert largest_gap(tiny.losses(run), fp32) < 0.5 * largest_gap(bare, fp32)
    assert {tensor.dtype for tensor in exported(run).values()} == {torch.bfloat16}
    (states,) = run.glob(f"checkpoints/step-{STEPS:08d}/optimizer/*.safetensors")
    assert {value.dtype for name, value in load_file(states).items() if name.endswith("master")} == {torch.float32}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_goes_on_under_any_strategy_and_world_size(lab: Lab, method: str) -> None:
    """zero2 on two ranks, zero3 on one, ddp on two, zero1 on one: together they are the run that never stopped."""
    words = [*METHODS[method], "checkpoint.save_steps=2", "checkpoint.save_total_limit=9"]
    run = lab.train(f"{method}-hops", 2, *words, "distributed.strategy=zero2")
    for step, strategy, world in ((2, "zero3", 1), (4, "ddp", 2), (6, "zero1", 1), (8, "zero3", 2)):
        lab.run(
            world,
            run,
            *words,
            f"distributed.strategy={strategy}",
            "--resume",
            str(run / f"checkpoints/step-{step:08d}"),
        )
    assert tiny.losses(run) == pytest.approx(tiny.losses(lab.single(method, "fp32")), rel=1e-5)
    attempts = [json.loads(line) for line in (run / "attempts.jsonl").read_text().splitlines()]
    assert [a["world"] for a in attempts if a["event"] == "start"] == [2, 1, 2, 1, 2]


def test_bf16_weights_go_on_where_there_are_no_fp32_copies_and_back(lab: Lab) -> None:
    """Each takes up what the other left: states in its own type, and no copy from before the other's steps."""
    words = [*METHODS["full"], *PRECISIONS["bf16 weights"], "checkpoint.save_steps=2", "checkpoint.save_total_limit=9"]
    words += ["evaluation.eval_steps=1"]
    run = lab.train("bf16-hops", 2, *words, "distributed.strategy=zero2")
    first = tiny.losses(run, "eval/loss")[2]
    steps = [str(run / "checkpoints" / f"step-{step:08d}") for step in (2, 8)]
    lab.run(1, run, *words, "distributed.strategy=none", "--resume", steps[0])
    stayed = tiny.losses(run, "eval/loss")
    lab.run(2, run, *words, "distributed.strategy=zero2", "--resume", steps[1])
    went = tiny.losses(run, "eval/loss")
    assert abs(went[9] - stayed[9]) < 0.1 * abs(stayed[8] - first)


def test_fp32_copies_are_saved_where_the_optimizer_has_no_state(lab: Lab) -> None:
    words = [*METHODS["full"], *PRECISIONS["bf16 weights"], "optimizer.name=sgd", "checkpoint.save_steps=5"]
    words += ["distributed.strategy=zero2"]
    run = lab.train("sgd-copies", 2, *words)
    whole = tiny.losses(run)
    lab.run(2, run, *words, "--resume", str(run / "checkpoints/step-00000005"))
    assert tiny.losses(run) == whole


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weights_and_optimizer_states_are_taken_up_exactly(lab: Lab, strategy: str) -> None:
    """A checkpoint of one strategy, loaded by another that makes no step and saves it again, is the same to the last bit."""
    source = lab.many("full", "fp32", "zero1" if strategy != "zero1" else "zero3", "export.verify=true")
    run = lab.folder / f"copy-{strategy}"
    shutil.copytree(source, run)
    shutil.rmtree(run / "export")
    lab.run(2, run, *METHODS["full"], f"distributed.strategy={strategy}", "--resume", "auto")
    before, after = exported(source), exported(run)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_the_best_state_is_put_back_and_exported(lab: Lab, strategy: str) -> None:
    """The highest loss is called the best, which is that of an early step."""
    words = [*METHODS["full"], "evaluation.eval_steps=2", "evaluation.metric_for_best_model=eval/loss"]
    words += ["evaluation.greater_is_better=true", "checkpoint.save_steps=5", "export.verify=true"]
    run = lab.train(f"best-{strategy}", 2, *words, f"distributed.strategy={strategy}")
    evaluated = tiny.losses(run, "eval/loss")
    best = max((step for step in evaluated if 0 < step <= STEPS), key=evaluated.get)
    assert best < STEPS
    saved = load_file(run / "checkpoints" / f"step-{best:08d}" / "model" / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in exported(run).items())


def test_experts_that_a_rank_does_not_visit_are_trained_under_zero3(lab: Lab, tmp_path: Path) -> None:
    """They are gathered as a whole; packed, since the proof of packing makes a backward pass of its own."""
    shape = "{model_type: mixtral, vocab_size: 32, hidden_size: 32, intermediate_size: 32, num_hidden_layers: 2,"
    shape += " num_attention_heads: 4, num_key_value_heads: 2, num_local_experts: 4, eos_token_id: 1, pad_token_id: 0}"
    words = [*METHODS["full"], f"model={{init: {shape}}}", f"tokenizer.name_or_path={lab.recipe.parent / 'model'}"]
    words += ["data.packing=true", "training.gradient_checkpointing=true"]
    one = lab.train("experts-none", 1, *words, "distributed.strategy=none", "training.gradient_accumulation_steps=null")
    many = lab.train("experts-zero3", 2, *words, "distributed.strategy=zero3")
    assert tiny.losses(many) == pytest.approx(tiny.losses(one), rel=1e-5)


@pytest.mark.parametrize(("method", "file_bytes"), [("full", 60_000), ("lora", 15_000)])
def test_a_full_disk_ends_every_rank_with_90_and_leaves_no_half_checkpoint(
    lab: Lab, method: str, file_bytes: int
) -> None:
    run, log = (lab.folder / f"full-disk-{method}{suffix}" for suffix in ("", ".log"))
    words = ["train", str(lab.recipe), *COMMON, *METHODS[method], "distributed.strategy=zero3", f"output_dir={run}"]
    codes = lab.call(2, tiny.launch_on_full_disk, file_bytes, [*words, "checkpoint.save_steps=1"], log=log)
    assert codes == [90, 90], log.read_text()[-4000:]
    assert not list((run / "checkpoints").iterdir())


@pytest.mark.slow
def test_under_zero3_no_rank_ever_holds_all_weights(tmp_path: Path, recipe: Path) -> None:
    """Peak of memory that is not a mapped file while a model of 300 MB is created from its folder, on two ranks."""
    tiny.save_tokenizer(tmp_path / "model")
    tiny.save_model(tmp_path / "model", hidden_size=1024, intermediate_size=4096, num_hidden_layers=5)
    size = sum(path.stat().st_size for path in (tmp_path / "model").glob("*.safetensors"))
    assert size > 300e6
    ranks = Workers(2)
    words = [str(recipe), "method=full", "adapter=null", f"model.name_or_path={tmp_path / 'model'}"]
    grown = ranks.call(create, [*words, "distributed.strategy=zero3"], log=tmp_path / "log")
    ranks.close()
    assert None not in grown, (tmp_path / "log").read_text()
    assert all(0.45 < peak / size < 0.75 for peak in grown), [
        peak / size for peak in grown
    ]  # its half, and one layer's weights


def create(words: list[str]) -> float:
    """Bytes by which this rank's memory grows at most while it creates the model of a recipe."""
    from launcher import engine, recipe, run

    ctypes.CDLL(None).mallopt(
        M_MMAP_THRESHOLD, 2**16
    )  # what is freed goes back at once, so that the peak is of what is held
    prepared = run.prepare_all(recipe.load(words[0], words[1:]), engine.world())
    running = engine.Engine(prepared.plan)
    ended = threading.Event()
    before, peaks = anonymous_bytes(), []
    watch = threading.Thread(
        target=lambda: [peaks.append(anonymous_bytes()) for _ in iter(lambda: ended.wait(0.002), True)]
    )
    watch.start()
    with running.creating():
        objective = run.build_objective(prepared)
    ended.set()
    watch.join()
    del objective
    running.close()
    return max(peaks) - before


def anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


@pytest.mark.parametrize(("strategy", "change"), [("zero2", "zero_optimization.stage: 3"), ("zero1", "optimizer")])
def test_a_configuration_that_contradicts_the_recipe_is_refused_by_both_names(
    recipe: Path, tmp_path: Path, capsys, strategy: str, change: str
) -> None:
    key, _, value = change.partition(": ")
    given = {"zero_optimization": {"stage": int(value)}} if value else {key: {"type": "Adam"}}
    (tmp_path / "ds.json").write_text(json.dumps(given))
    words = [f"distributed.strategy={strategy}", f"distributed.deepspeed_config={tmp_path / 'ds.json'}"]
    assert tiny.train(recipe, *words, f"output_dir={tmp_path / 'run'}") == 89
    said = capsys.readouterr().err
    assert key in said and ("distributed.strategy" in said if value else "optimizer of the recipe" in said)


def test_a_closed_engine_leaves_no_process_group_behind(recipe: Path, tmp_path: Path) -> None:
    """ZeRO gives a single process a process group; what this process starts later must not look for it."""
    assert tiny.train(recipe, "distributed.strategy=zero1", f"output_dir={tmp_path / 'run'}") == 0
    assert not {"RANK", "WORLD_SIZE", "MASTER_PORT", "ACCELERATE_USE_DEEPSPEED"} & os.environ.keys()


def test_a_rank_that_holds_a_single_element_tells_its_state_from_a_number() -> None:
    """The bias of a head with two outputs, on two ranks: the moment is as long as the part, the step has no dimension."""
    from launcher.engine.zero import Zero

    part = torch.zeros(1)
    state = {part: {"step": torch.tensor(3.0), "exp_avg": torch.ones(1)}}
    strategy = SimpleNamespace(optimizer=SimpleNamespace(state=state), _flat_parts=lambda: [part])
    long, short = Zero._kinds_of_state(strategy)
    assert (long, list(short)) == (["exp_avg"], ["step"])
