"""DeepSpeed's configuration follows from the recipe; a user's own may add to it and not contradict it."""

import json
from pathlib import Path

import pytest

from launcher import recipe as recipes
from launcher import zero_config
from launcher.errors import RecipeError
from launcher.zero_config import Shape

SHAPE = Shape(parameters=8_000_000_000, trainable=8_000_000_000, num_layers=32, hidden_size=4096)


def make(recipe: Path, *words: str, strategy: str = "zero3", precision: str = "bf16", bf16: bool = False, shape=SHAPE):
    loaded = recipes.load(recipe, [f"distributed.strategy={strategy}", *words])
    return zero_config.make(loaded, strategy, 8, precision, bf16, shape)


def test_the_launcher_alone_accumulates_and_clips_as_the_recipe_says(recipe: Path) -> None:
    made = make(recipe, "training.max_grad_norm=0.5")
    assert (made["gradient_accumulation_steps"], made["train_micro_batch_size_per_gpu"], made["train_batch_size"]) == (
        1,
        1,
        8,
    )
    assert made["gradient_clipping"] == 0.5
    assert make(recipe, "training.max_grad_norm=null")["gradient_clipping"] == 0.0


@pytest.mark.parametrize(("strategy", "stage"), [("zero1", 1), ("zero2", 2), ("zero3", 3)])
def test_the_stage_is_the_strategy_s(recipe: Path, strategy: str, stage: int) -> None:
    assert make(recipe, strategy=strategy)["zero_optimization"]["stage"] == stage


@pytest.mark.parametrize(
    ("precision", "bf16", "expected"),
    [
        ("fp32", False, set()),
        ("bf16", False, {"torch_autocast"}),
        ("bf16", True, {"bf16", "data_types"}),
        ("fp16", False, {"torch_autocast"}),
    ],
)
def test_each_precision_has_its_section(recipe: Path, precision: str, bf16: bool, expected: set[str]) -> None:
    sections = {"torch_autocast", "bf16", "data_types", "fp16"}
    made = make(recipe, "method=full", "adapter=null", precision=precision, bf16=bf16)
    assert sections & made.keys() == expected


def test_deepspeed_s_autocast_is_for_weights_that_it_gathers(recipe: Path) -> None:
    assert "torch_autocast" in make(recipe, "method=full", "adapter=null")
    assert "torch_autocast" not in make(recipe)
    assert "torch_autocast" not in make(recipe, "method=full", "adapter=null", strategy="zero2")


def test_buckets_are_no_larger_than_what_is_trained(recipe: Path) -> None:
    """DeepSpeed allocates them whole: its default of 500 million elements is 2 GB beside an adapter of 40 MB."""
    small = make(recipe, shape=Shape(8_000_000_000, 10_000_000, 32, 4096))["zero_optimization"]
    large = make(recipe)["zero_optimization"]
    assert small["reduce_bucket_size"] == 10_000_000 < large["reduce_bucket_size"] <= 500_000_000
    assert small["sub_group_size"] == 10_000_000


def test_zero3_fetches_a_layer_ahead_and_keeps_what_is_tiny(recipe: Path) -> None:
    made = make(recipe, shape=Shape(100_000_000, 1_000_000, 10, 512))["zero_optimization"]
    assert made["stage3_prefetch_bucket_size"] == 10_000_000
    assert made["stage3_param_persistence_threshold"] == 5120
    assert "stage3_prefetch_bucket_size" not in make(recipe, strategy="zero2")["zero_optimization"]


def test_offloading_and_zero_plus_plus_reach_deepspeed(recipe: Path, tmp_path: Path) -> None:
    words = ["offload_optimizer=nvme", "offload_param=cpu", f"offload_dir={tmp_path}", "zero_hpz_partition_size=4"]
    words += ["zero_quantized_weights=true", "zero_quantized_gradients=true"]
    made = make(recipe, *(f"distributed.{word}" for word in words))["zero_optimization"]
    assert made["offload_optimizer"] == {"device": "nvme", "pin_memory": True, "nvme_path": str(tmp_path)}
    assert made["offload_param"] == {"device": "cpu", "pin_memory": True}
    assert made["zero_hpz_partition_size"] == 4
    assert made["zero_quantized_weights"] and made["zero_quantized_gradients"]


def test_the_configuration_is_one_that_deepspeed_takes(recipe: Path) -> None:
    pytest.importorskip("deepspeed")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    for strategy in zero_config.STAGES:
        made = make(recipe, "distributed.offload_optimizer=cpu", strategy=strategy)["zero_optimization"]
        assert DeepSpeedZeroConfig(**made).reduce_bucket_size == made["reduce_bucket_size"]


USERS = {
    "zero_optimization": {"overlap_comm": False, "reduce_bucket_size": 1000, "stage": "auto"},
    "wall_clock_breakdown": True,
}


def test_a_user_s_file_adds_and_may_choose_sizes(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(json.dumps(USERS))
    made = make(recipe, f"distributed.deepspeed_config={tmp_path / 'ds.json'}")
    assert made["wall_clock_breakdown"] is True
    assert made["zero_optimization"]["overlap_comm"] is False
    assert made["zero_optimization"]["reduce_bucket_size"] == 1000
    assert made["zero_optimization"]["stage"] == 3
    assert made["gradient_clipping"] == 0.1


@pytest.mark.parametrize(
    ("users", "names"),
    [
        ({"zero_optimization": {"stage": 2}}, ("zero_optimization.stage is 2", "3 after distributed.strategy")),
        ({"gradient_clipping": 1.0}, ("gradient_clipping is 1.0", "0.1 after training.max_grad_norm")),
        ({"train_batch_size": 64}, ("train_batch_size is 64", "training.global_batch_size")),
        (
            {"gradient_accumulation_steps": 4},
            ("gradient_accumulation_steps is 4", "training.gradient_accumulation_steps"),
        ),
        ({"bf16": {"enabled": True}}, ("bf16.enabled is true", "training.precision")),
        (
            {"fp16": {"enabled": True, "loss_scale_window": 9}},
            ("fp16.enabled is true", "loss_scale_window is 9", "by itself"),
        ),
        (
            {"zero_optimization": {"offload_param": {"device": "cpu"}}},
            ("offload_param.device", "distributed.offload_param"),
        ),
        ({"optimizer": {"type": "Adam"}}, ("optimizer belongs to optimizer of the recipe",)),
        ({"scheduler": {"type": "WarmupLR"}}, ("scheduler belongs to scheduler of the recipe",)),
    ],
)
def test_each_disagreement_names_both_sides(recipe: Path, tmp_path: Path, users: dict, names: tuple[str, ...]) -> None:
    (tmp_path / "ds.json").write_text(json.dumps(users))
    with pytest.raises(RecipeError) as caught:
        make(recipe, f"distributed.deepspeed_config={tmp_path / 'ds.json'}")
    assert all(name in str(caught.value) for name in names)


def test_saying_the_same_or_leaving_it_off_is_no_disagreement(recipe: Path, tmp_path: Path) -> None:
    same = {
        "zero_optimization": {"stage": 3, "offload_param": {"device": "none"}},
        "gradient_clipping": 0.1,
        "bf16": {"enabled": False},
    }
    (tmp_path / "ds.json").write_text(json.dumps(same))
    assert make(recipe, f"distributed.deepspeed_config={tmp_path / 'ds.json'}")["zero_optimization"]["stage"] == 3


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_file_that_is_no_json_object_is_refused(recipe: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "ds.json").write_text(content)
    with pytest.raises(RecipeError, match=r"ds\.json"):
        make(recipe, f"distributed.deepspeed_config={tmp_path / 'ds.json'}")
