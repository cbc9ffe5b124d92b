"""DeepSpeed's configuration follows from the recipe; a user's own may add to it and not contradict it."""

import json
import re
from pathlib import Path

import pytest

from launcher import recipe as recipes
from launcher import zero_config, zero_keys
from launcher.errors import RecipeError
from launcher.zero_config import Shape

SHAPE = Shape(parameters=8_000_000_000, trainable=8_000_000_000, num_layers=32, hidden_size=4096)


BLOCK = "Qwen3MoeSparseMoeBlock"


def make(
    recipe: Path,
    *words: str,
    strategy: str = "zero3",
    precision: str = "bf16",
    bf16: bool = False,
    shape: Shape = SHAPE,
    world_size: int = 8,
):
    loaded = recipes.load(recipe, [f"distributed.strategy={strategy}", *words])
    return zero_config.make(loaded, strategy, world_size, precision, bf16, shape)


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


@pytest.mark.parametrize("size", [3, 16])
def test_a_second_copy_needs_groups_of_equal_size(recipe: Path, size: int) -> None:
    with pytest.raises(
        RecipeError, match=rf"hpz_partition_size: {size} does not divide the 8 ranks .* use 2 or 4 or 8$"
    ):
        make(recipe, f"distributed.zero_hpz_partition_size={size}")


def test_one_process_keeps_no_second_copy(recipe: Path) -> None:
    made = make(recipe, "distributed.zero_hpz_partition_size=8", world_size=1)
    assert "zero_hpz_partition_size" not in made["zero_optimization"]


@pytest.mark.parametrize(
    ("named", "leaves"), [(None, {BLOCK}), ("[]", set()), ("[Qwen3MoeDecoderLayer]", {"Qwen3MoeDecoderLayer"})]
)
def test_only_what_the_recipe_names_is_gathered_as_a_whole(recipe: Path, named: str | None, leaves: set[str]) -> None:
    """DeepSpeed names classes of its own where its configuration is silent."""
    pytest.importorskip("deepspeed")
    import torch
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.utils.z3_leaf_module import apply_zero_leaf_module_config
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    shape = {"hidden_size": 64, "moe_intermediate_size": 16, "num_experts": 4, "vocab_size": 32, "num_hidden_layers": 2}
    with torch.device("meta"):
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape))
    made = make(recipe, *([] if named is None else [f"distributed.zero_leaf_modules={named}"]))
    given = DeepSpeedZeroConfig(**made["zero_optimization"]).leaf_module
    assert {type(module).__name__ for module in apply_zero_leaf_module_config(model, given)} == leaves


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


def refused(recipe: Path, tmp_path: Path, content: str, *words: str, **choices) -> str:
    """What the error says, which has the place of the key."""
    (tmp_path / "ds.json").write_text(content)
    with pytest.raises(RecipeError) as caught:
        make(recipe, f"distributed.deepspeed_config={tmp_path / 'ds.json'}", *words, **choices)
    assert caught.value.where == "command line"
    return str(caught.value)


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
            {"torch_autocast": {"lower_precision_safe_modules": ["torch.nn.Linear"]}},
            ("torch_autocast.lower_precision_safe_modules", "left out after training.precision"),
        ),
        ({"zero_allow_untested_optimizer": False}, ("zero_allow_untested_optimizer is false", "optimizer.name")),
        (
            {"zero_optimization": {"cpu_offload": True, "cpu_offload_param": False}},
            (
                "cpu_offload belongs to distributed.offload_optimizer",
                "cpu_offload_param belongs to distributed.offload_p",
            ),
        ),
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
    assert all(name in refused(recipe, tmp_path, json.dumps(users)) for name in names)


def test_saying_the_same_or_leaving_it_off_is_no_disagreement(recipe: Path, tmp_path: Path) -> None:
    same = {
        "zero_optimization": {"stage": 3, "offload_param": {"device": "none"}},
        "gradient_clipping": 0.1,
        "bf16": {"enabled": False},
    }
    (tmp_path / "ds.json").write_text(json.dumps(same))
    assert make(recipe, f"distributed.deepspeed_config={tmp_path / 'ds.json'}")["zero_optimization"]["stage"] == 3


FULL = ("method=full", "adapter=null")


@pytest.mark.parametrize("section", ["bf16", "fp16", "torch_autocast"])
@pytest.mark.parametrize("enabled", [False, "auto"])
def test_a_section_that_is_off_is_not_in_the_configuration(recipe: Path, section: str, enabled: bool | str) -> None:
    """Whoever looks for the section alone would take it for on."""
    assert section not in make(
        recipe, f"distributed.deepspeed_config={{{section}: {{enabled: {json.dumps(enabled)}}}}}"
    )


def test_what_a_section_says_that_is_off_does_not_count(recipe: Path) -> None:
    users = (
        "{fp16: {enabled: false, hysteresis: 9}, zero_optimization: {offload_param: {device: none, nvme_path: null}}}"
    )
    assert make(recipe, f"distributed.deepspeed_config={users}") == make(recipe)


@pytest.mark.parametrize(("section", "bf16"), [("torch_autocast", False), ("bf16", True)])
def test_a_section_of_ours_cannot_be_switched_off(recipe: Path, tmp_path: Path, section: str, bf16: bool) -> None:
    said = refused(recipe, tmp_path, json.dumps({section: {"enabled": False}}), *FULL, bf16=bf16)
    assert f"{section}.enabled is false there, and true after training.precision" in said


def test_a_user_may_say_more_in_a_section_of_ours(recipe: Path) -> None:
    word = "distributed.deepspeed_config={torch_autocast: {lower_precision_safe_modules: [torch.nn.Linear]}}"
    made = make(recipe, word, *FULL)["torch_autocast"]
    assert made == {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": ["torch.nn.Linear"]}


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_file_that_is_no_json_object_is_refused(recipe: Path, tmp_path: Path, content: str) -> None:
    assert "ds.json" in refused(recipe, tmp_path, content)


def test_a_file_that_is_missing_is_said_with_all_other_problems_of_the_recipe(recipe: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"command line.* distributed.deepspeed_config: there is no file .*none\.json"
    ):
        make(recipe, "distributed.deepspeed_config=none.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"zero_optimisation": {}}', "zero_optimisation is no key of .* did you mean zero_optimization?"),
        (
            '{"zero_optimization": {"overlap_com": true}}',
            "zero_optimization.overlap_com is .* did you mean overlap_comm?",
        ),
        ('{"zero_optimization": {"offload_param": {"pin": true}}}', "offload_param.pin is no key of DeepSpeed's"),
        ('{"bfloat16": {"enabled": true}}', "bfloat16 cannot be used: its name is bf16"),
        ('{"tensor_parallel": {"autotp_size": 2}}', "tensor_parallel cannot be used: every rank computes its own rows"),
        ('{"elasticity": {}, "pipeline": {}}', "elasticity cannot be used: .*; pipeline cannot be used"),
        ('{"gradient_predivide_factor": 2.0}', "gradient_predivide_factor cannot be 2.0: DeepSpeed has it for"),
        ('{"zero_optimization": {"compute_grad_norm": false}}', "compute_grad_norm cannot be false: the norm"),
        ('{"zero_optimization": "foo"}', 'zero_optimization is "foo", and not a section'),
        ('{"zero_optimization": null}', "zero_optimization is null, and not a section"),
        ('{"zero_optimization": {"reduce_bucket_size": "big"}}', 'reduce_bucket_size is "big", and not a whole number'),
        (
            '{"zero_optimization": {"reduce_bucket_size": 0}}',
            "reduce_bucket_size is 0, and not a whole number, 1 or more",
        ),
        ('{"zero_optimization": {"sub_group_size": 1e400}}', "sub_group_size is Infinity, and not a whole number"),
        (
            '{"zero_optimization": {"allgather_bucket_size": 7}}',
            "allgather_bucket_size is 7, and not an even whole number",
        ),
        (
            '{"zero_optimization": {"stage3_module_granularity_threshold": 9}}',
            "cannot be 9: .* distributed.zero_leaf_m",
        ),
        ('{"zero_optimization": {"sub_group_size": 1.5}}', "sub_group_size is 1.5, and not a whole number"),
        ('{"zero_optimization": {"stage": true}}', "stage is true, and not a whole number"),
        ('{"wall_clock_breakdown": 1}', "wall_clock_breakdown is 1, and not true or false"),
    ],
)
def test_a_key_or_value_that_deepspeed_would_trip_over_is_refused(
    recipe: Path, tmp_path: Path, content: str, said: str
) -> None:
    assert re.search(said, refused(recipe, tmp_path, content))


def test_whole_numbers_may_have_an_exponent(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"sub_group_size": 1e9}}')
    made = make(recipe, f"distributed.deepspeed_config={tmp_path / 'ds.json'}")
    assert made["zero_optimization"]["sub_group_size"] == 10**9


def test_every_key_that_this_deepspeed_has_for_zero_is_known_or_refused() -> None:
    pytest.importorskip("deepspeed")
    from deepspeed.runtime.zero import config, offload_config

    def names(model) -> set[str]:
        return {field.alias or name for name, field in model.model_fields.items()}

    spoken_for = {key.removeprefix("zero_optimization.") for key in (*zero_keys.TAKEN, *zero_keys.REFUSED)}
    zero = zero_keys.ZERO
    assert names(config.DeepSpeedZeroConfig) <= zero.keys() | spoken_for and zero.keys() <= names(
        config.DeepSpeedZeroConfig
    )
    assert names(offload_config.DeepSpeedZeroOffloadParamConfig) == zero["offload_param"].keys()
    assert names(offload_config.DeepSpeedZeroOffloadOptimizerConfig) == zero["offload_optimizer"].keys()
