"""The same recipe gives the same training however it is sliced: micro-batches x accumulation x ranks."""

from pathlib import Path

import pytest
import tiny
from safetensors.torch import load_file

SLICES = {
    "1x1x4": (1, 4),
    "1x4x1": (1, 1),
    "2x2x1": (2, 1),
    "4x1x1": (4, 1),
    "2x1x2": (2, 2),
}  # ranks x accumulation x rows
STEPS = 20  # 22 rows in batches of 4: the sixth step of every epoch is short, and some ranks get nothing


@pytest.fixture(scope="module", params=["lora", "full"])
def runs(request: pytest.FixtureRequest, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each slicing. All four-rank, two-rank and one-rank runs go through the command line's `train`."""
    folder = tmp_path_factory.mktemp(f"same-{request.param}")
    options = [f"training.max_steps={STEPS}", "evaluation.metrics=[loss]"]
    slices = SLICES
    if request.param == "full":
        slices = {name: SLICES[name] for name in ("1x1x4", "2x2x1")}
        options += ["method=full", "adapter=null", "optimizer.learning_rate=3e-3"]
    started = {}
    for name, (ranks, rows) in slices.items():
        words = [
            "train",
            str(recipe),
            *options,
            f"training.per_device_train_batch_size={rows}",
            f"output_dir={folder / name}",
        ]
        started[name] = tiny.Ranks(ranks, words, folder / f"{name}.log")
        codes = started[name].wait()
        assert codes == [0] * ranks, (folder / f"{name}.log").read_text()
    return {name: folder / name for name in slices}


def test_losses_are_equal_to_rounding(runs: dict[str, Path]) -> None:
    reference = tiny.losses(runs["1x1x4"])
    assert len(reference) == STEPS
    for name, run in runs.items():
        assert tiny.losses(run) == pytest.approx(reference, rel=1e-5), name


def test_gradient_norms_and_evaluations_are_equal_to_rounding(runs: dict[str, Path]) -> None:
    for metric in ("train/grad_norm", "eval/loss"):
        reference = tiny.losses(runs["1x1x4"], metric)
        for name, run in runs.items():
            assert tiny.losses(run, metric) == pytest.approx(reference, rel=1e-4), name
    assert min(tiny.losses(runs["1x1x4"], "train/grad_norm").values()) > 0.1, "clipping at 0.1 is to be active"


def test_exports_are_equal_to_rounding(runs: dict[str, Path]) -> None:
    (path,) = (runs["1x1x4"] / "export").glob("*.safetensors")
    reference = load_file(path)
    for name, run in runs.items():
        sliced = load_file(run / "export" / path.name)
        assert reference.keys() == sliced.keys()
        for tensor in reference:
            assert (reference[tensor] - sliced[tensor]).abs().max() < 2e-4, (name, tensor)


def test_two_ranks_shared_the_work(runs: dict[str, Path]) -> None:
    """Otherwise the comparison would be of one run with itself."""
    plan = (runs["2x2x1"] / "plan.json").read_text()
    assert '"world_size": {\n   "value": 2,' in plan
    assert (runs["2x2x1"] / "log" / "rank-1.log").exists()
