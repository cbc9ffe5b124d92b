"""Running statistics move once a step, by the mean over the micro-batches of all ranks; nothing else moves them."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import tiny_pictures
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from workers import Workers

from launcher.batch_norm import BatchNorms, trained
from launcher.errors import RecipeError

ALONE: Any = SimpleNamespace(total=lambda values: values)
MOMENTUM = 0.3


def model(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=MOMENTUM, **options))
    layers[1].running_mean.normal_()
    layers[1].running_var.uniform_(0.5, 2.0)
    return layers


def pictures(rows: int) -> Tensor:
    return torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(rows)) + rows


def step(layers: nn.Module, sizes: list[int], norms: BatchNorms) -> None:
    with norms.step():
        for rows in sizes:
            with norms.micro_batch(rows):
                layers(pictures(max(1, rows))).sum().backward()


def by_hand(layers: nn.Sequential, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Running mean and variance after a step, in fp64."""
    seen = [layers[0](pictures(rows)).double().transpose(0, 1).flatten(1) for rows in sizes]
    means = torch.stack([values.mean(1) for values in seen]).mean(0)
    variances = torch.stack([values.var(1, unbiased=True) for values in seen]).mean(0)
    old = layers[1].running_mean.double(), layers[1].running_var.double()
    return old[0] + MOMENTUM * (means - old[0]), old[1] + MOMENTUM * (variances - old[1])


def test_a_step_moves_them_by_the_mean_over_its_micro_batches() -> None:
    layers = model()
    mean, variance = by_hand(layers, [2, 5, 3])
    step(layers, [2, 5, 3], BatchNorms(layers, ALONE, full_rows=5))
    assert torch.allclose(layers[1].running_mean.double(), mean, atol=1e-5)
    assert torch.allclose(layers[1].running_var.double(), variance, rtol=1e-5)
    assert layers[1].num_batches_tracked == 1 and layers[1].momentum == MOMENTUM and layers[1].training


def test_a_single_micro_batch_is_pytorch_s_own_step_and_its_output_too() -> None:
    layers, torch_s = model(), model()
    norms = BatchNorms(layers, ALONE, full_rows=4)
    for rows in (4, 3):
        torch_s(pictures(rows))
        step(layers, [rows], norms)
    for name, buffer in torch_s[1].named_buffers():
        assert torch.allclose(layers[1].get_buffer(name), buffer, rtol=1e-6), name


def test_a_micro_batch_without_rows_leaves_no_trace() -> None:
    layers, other = model(), model()
    step(layers, [4, 0, 3, 0], BatchNorms(layers, ALONE, full_rows=4))
    step(other, [4, 3], BatchNorms(other, ALONE, full_rows=4))
    assert layers[1].running_mean.equal(other[1].running_mean) and layers[1].running_var.equal(other[1].running_var)
    before = copy.deepcopy(layers[1].state_dict())
    step(layers, [0], BatchNorms(layers, ALONE, full_rows=4))
    assert all(value.equal(before[name]) for name, value in layers[1].state_dict().items())


def test_without_momentum_all_steps_weigh_the_same() -> None:
    layers = model()
    layers[1].momentum = None
    layers[1].reset_running_stats()
    norms = BatchNorms(layers, ALONE, full_rows=4)
    means = []
    for rows in (2, 3, 4):
        means.append(layers[0](pictures(rows)).mean((0, 2, 3)))
        step(layers, [rows], norms)
    assert torch.allclose(layers[1].running_mean, torch.stack(means).mean(0), atol=1e-5)
    assert layers[1].num_batches_tracked == 3


def test_frozen_layers_use_their_running_statistics_even_in_train_mode() -> None:
    layers = model()
    layers[1].requires_grad_(False)
    before = copy.deepcopy(layers[1].state_dict())
    wanted = copy.deepcopy(layers).eval()(pictures(3))
    norms = BatchNorms(layers, ALONE, full_rows=3)
    layers.train()
    with norms.step(), norms.micro_batch(3):
        assert layers(pictures(3)).equal(wanted)
    assert all(value.equal(before[name]) for name, value in layers[1].state_dict().items())
    assert not trained(layers)


def test_without_weights_a_layer_is_trained_with_the_whole_model_alone() -> None:
    layers = model(affine=False)
    assert list(trained(layers)) == ["1"]
    layers[0].bias.requires_grad_(False)
    assert not trained(layers)


def test_a_single_value_is_refused_unless_the_micro_batch_is_cut_short(
    caplog: pytest.LogCaptureFixture,
) -> None:
    layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 2), nn.BatchNorm1d(2))
    with pytest.raises(RecipeError, match="^2 normalises .* single value; raise training.per_device_train_batch_size"):
        step(layers, [1], BatchNorms(layers, ALONE, full_rows=1))
    layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 2), nn.BatchNorm1d(2))
    other = copy.deepcopy(layers)
    step(layers, [4, 1], BatchNorms(layers, ALONE, full_rows=4))
    step(other, [4], BatchNorms(other, ALONE, full_rows=4))
    assert layers[2].running_var.equal(other[2].running_var)
    assert "a micro-batch of 1 rows is normalised with the running statistics in 2" in caplog.text


def test_layers_that_are_computed_again_count_once() -> None:
    """Activation checkpointing runs the forward pass twice: each micro-batch as often as another."""
    from torch.utils.checkpoint import checkpoint

    layers, other = model(), model()
    norms = BatchNorms(layers, ALONE, full_rows=4)
    with norms.step():
        for rows in (2, 4):
            with norms.micro_batch(rows):
                checkpoint(lambda x: layers(x).square(), pictures(rows), use_reentrant=False).sum().backward()
    step(other, [2, 4], BatchNorms(other, ALONE, full_rows=4))
    assert torch.allclose(layers[1].running_mean, other[1].running_mean, atol=1e-5)
    assert layers[1].num_batches_tracked == 1


# --- runs of a tiny ResNet ---------------------------------------------------------------------------------------------

RECIPE = """\
task: image_classification
method: full
model: {init: %s}
data: {train: [{path: train}], eval: [{path: eval}], image_size: 16}
training: {global_batch_size: 8, per_device_train_batch_size: 2, max_steps: 6, precision: fp32}
optimizer: {learning_rate: 1.0e-3}
scheduler: {name: constant}
checkpoint: {save_steps: 3}
export: {verify: false}
logging: {logging_steps: 1, trackers: [jsonl]}
"""


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resnet")
    tiny_pictures.in_folders(folder / "train", 22)
    tiny_pictures.in_folders(folder / "eval", 5, 22)
    (folder / "tiny.yaml").write_text(RECIPE % {"model_type": "resnet", **tiny_pictures.RESNET})
    return folder / "tiny.yaml"


@pytest.fixture(scope="module")
def alone(resnet: Path) -> Path:
    run = resnet.parent / "alone"
    assert tiny.train(resnet, f"output_dir={run}") == 0
    return run


def exported(run: Path) -> dict[str, Tensor]:
    return load_file(run / "export" / "model.safetensors")


def test_the_plan_says_so_and_the_export_holds_them(alone: Path) -> None:
    assert "the model has batch statistics" in (alone / "plan.json").read_text()
    moved = {name: tensor for name, tensor in exported(alone).items() if name.endswith("num_batches_tracked")}
    assert moved and all(tensor.dtype == torch.int64 and tensor == 6 for tensor in moved.values())
    variances = [tensor for name, tensor in exported(alone).items() if name.endswith("running_var")]
    assert all((tensor != 1).all() for tensor in variances)


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3"])
def test_two_ranks_equal_one(strategy: str, resnet: Path, alone: Path, two: Workers, tmp_path: Path) -> None:
    """22 rows in steps of 8: the third of an epoch has 6, so that a rank has a micro-batch without rows."""
    run, log = tmp_path / "run", tmp_path / "log"
    words = ["train", str(resnet), f"output_dir={run}", f"distributed.strategy={strategy}"]
    assert two.run(words, log) == [0, 0], log.read_text()
    for name in ("train/loss", "train/grad_norm", "eval/loss"):
        assert tiny.losses(run, name) == pytest.approx(tiny.losses(alone, name), rel=1e-4), name
    wanted = exported(alone)
    for name, tensor in exported(run).items():
        assert torch.allclose(tensor, wanted[name], rtol=1e-4, atol=2e-5), name


@pytest.fixture(scope="module")
def two() -> Any:
    workers = Workers(2)
    yield workers
    workers.close()


def test_resumed_equals_uninterrupted_to_the_bit(resnet: Path, alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert tiny.train(resnet, f"output_dir={run}", "training.max_steps=3") == 0
    assert tiny.train(resnet, f"output_dir={run}", "--resume", "auto") == 0
    wanted = exported(alone)
    assert all(tensor.equal(wanted[name]) for name, tensor in exported(run).items())
    assert tiny.losses(run, "eval/loss")[6] == tiny.losses(alone, "eval/loss")[6]
