"""Recomputed layers give the same bits, exactly those are recomputed, and their inputs are all that waits."""

import contextlib
import dataclasses
import gc
import sys
import weakref
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

import launcher.recipe
from launcher import activations, model, parts, plan, run
from launcher.errors import RecipeError
from launcher.plan import ModelFacts
from launcher.tasks.causal_lm.objective import Objective
from launcher.world import World

sys.path.append(str(Path(__file__).parent / "tasks"))
from families import build, lora, packed_batch, padded_batch

LAYERS = 3
DEEP = {
    "llama": {"num_hidden_layers": LAYERS},
    "gemma3_text": {"num_hidden_layers": LAYERS},
    "qwen3_moe": {"num_hidden_layers": LAYERS},
    "gpt2": {"n_layer": LAYERS, "attn_pdrop": 0.2, "embd_pdrop": 0.2, "resid_pdrop": 0.2},
}
FACTS = ModelFacts("Tiny", 1000, 100, 64, False, "fused", "auto", "here", recomputable_layers=LAYERS)
ON, EVERY, OFFLOAD = (
    "training.gradient_checkpointing=true",
    "training.gradient_checkpointing_interval",
    "training.activation_offloading=true",
)
BATCHES = {"padded": padded_batch, "packed": packed_batch}


def objective_of(family: str, with_lora: bool = False, **adapter) -> Objective:
    base = build(family, "sdpa", **DEEP[family])
    return Objective(lora(base, **adapter) if with_lora else base, "fused").train()


def trained(objective: Objective, batch: dict, half: bool = False) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss and all gradients of one micro-batch, with the random numbers of one seed."""
    torch.manual_seed(7)
    objective.zero_grad()
    with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
        loss = objective(**batch).terms["tokens"][0]
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}


def assert_same_bits(ours, theirs) -> None:
    assert torch.equal(ours[0], theirs[0])
    assert ours[1].keys() == theirs[1].keys() and len(ours[1]) > 5
    for name, gradient in theirs[1].items():
        assert torch.equal(ours[1][name], gradient), name
    assert any(gradient.abs().max() > 0 for gradient in theirs[1].values())


@contextlib.contextmanager
def counted(objective: Objective):
    """Calls of each layer's first child so far: the layer's own hooks stand outside of what is recomputed."""
    calls = [0] * LAYERS
    handles = []
    for number, layer in enumerate(activations.layers(objective)):

        def count(*_, number: int = number) -> None:
            calls[number] += 1

        handles.append(next(layer.children()).register_forward_pre_hook(count))
    yield calls
    for handle in handles:
        handle.remove()


# the same result


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("with_lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", DEEP)
def test_loss_and_gradients_have_the_same_bits(family: str, with_lora: bool, batch: str, half: bool) -> None:
    """With dropout of the model and of LoRA, whose random numbers must come again."""
    objective = objective_of(
        family, with_lora, lora_dropout=0.0 if "moe" in family else 0.3
    )  # PEFT has none for experts
    rows = BATCHES[batch]()
    plain = trained(objective, rows, half)
    for interval in (1, 2, 3):
        activations.checkpoint_layers(objective, interval)
        with counted(objective) as calls:
            assert_same_bits(trained(objective, rows, half), plain)
        assert calls == [2 if number % interval == 0 else 1 for number in range(LAYERS)]


def test_dropout_is_at_work_in_these_comparisons() -> None:
    for objective in (objective_of("gpt2"), objective_of("llama", True, lora_dropout=0.3)):
        dropped, _ = trained(objective, padded_batch())
        whole, _ = trained(objective.eval(), padded_batch())
        assert not torch.equal(dropped, whole)


def test_router_losses_are_differentiated_through_recomputed_layers() -> None:
    """They leave the layers by hooks that transformers sets, past the layers' outputs."""
    mixture = build("qwen3_moe", "sdpa", router_aux_loss_coef=1.0, **DEEP["qwen3_moe"]).train()
    batch = padded_batch()
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": batch["input_ids"]}
    results = []
    for interval in (None, 1, 2):
        activations.checkpoint_layers(mixture, interval)
        mixture.zero_grad()
        out = mixture(**inputs, output_router_logits=True, use_cache=False)
        out.loss.backward()
        assert out.aux_loss > 0 and len(out.router_logits) == LAYERS
        gradients = {n: p.grad.clone() for n, p in mixture.named_parameters() if p.grad is not None}
        results.append((out.loss.detach(), gradients))
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


def test_two_ranks_that_recompute_train_like_one_that_does_not(recipe: Path, tmp_path: Path) -> None:
    """With accumulation, where DistributedDataParallel does not exchange gradients after every backward."""
    common = ["train", str(recipe), "evaluation.metrics=[loss]", "training.max_steps=3"]
    recomputed = ["training.gradient_checkpointing=true", "training.gradient_checkpointing_interval=2"]
    one, two = tmp_path / "one", tmp_path / "two"
    started = [
        tiny.Ranks(1, [*common, f"output_dir={one}"], tmp_path / "one.log"),
        tiny.Ranks(2, [*common, *recomputed, f"output_dir={two}"], tmp_path / "two.log"),
    ]
    assert [ranks.wait() for ranks in started] == [[0], [0, 0]], (tmp_path / "two.log").read_text()
    for metric in ("train/loss", "train/grad_norm", "eval/loss"):
        assert tiny.losses(two, metric) == pytest.approx(tiny.losses(one, metric), rel=1e-5)


# which layers, and when


def test_layers_below_the_first_trained_one_are_not_computed_again() -> None:
    objective = objective_of("llama", True, target_modules=r".*layers\.2\.mlp\.down_proj")
    activations.checkpoint_layers(objective, 1)
    with counted(objective) as calls:
        trained_ones = trained(objective, padded_batch())[1]
    assert calls == [1, 1, 2]
    assert sorted(name.split(".layers.")[1][0] for name in trained_ones) == ["2", "2"]


def test_evaluation_and_generation_run_as_ever() -> None:
    """Between two steps: nothing is computed twice, and generation has its cache, so that each new token is one position."""
    objective = objective_of("llama", True)
    activations.checkpoint_layers(objective, 1)
    trained(objective, padded_batch())
    objective.eval()
    for gradients in (torch.no_grad(), torch.enable_grad()):
        with counted(objective) as calls, gradients:
            loss = objective(**padded_batch()).terms["tokens"][0]
        if loss.requires_grad:
            loss.backward()
        assert calls == [1] * LAYERS
    widths = []
    activations.layers(objective)[0].register_forward_pre_hook(lambda module, inputs: widths.append(inputs[0].shape[1]))
    objective.model.generate(input_ids=torch.ones(1, 5, dtype=torch.long), max_new_tokens=4, min_new_tokens=4)
    assert widths == [5, 1, 1, 1]
    assert objective.model.config.use_cache is True, "it would be exported"


def test_a_run_recomputes_what_its_recipe_says(recipe: Path) -> None:
    """And sends no gradients to a frozen embedding, as PEFT does to a model that it finds checkpointing."""
    prepared = run.prepare_all(launcher.recipe.load(recipe, [ON, f"{EVERY}=2"]), World())
    objective = run.build_objective(prepared)
    assert [layer.gradient_checkpointing for layer in activations.layers(objective)] == [True, False]
    states = objective.model.get_input_embeddings()(torch.ones(1, 1, dtype=torch.long))
    assert not states.requires_grad


class Inner(GradientCheckpointingLayer):
    def forward(self, states):
        return states


class Outer(GradientCheckpointingLayer):
    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def forward(self, states):
        return self.inner(states)


def test_a_layer_inside_a_layer_is_not_recomputed_by_itself() -> None:
    shared = Outer()
    stack = nn.Sequential(Outer(), nn.Sequential(shared, nn.Identity()), shared, Inner())
    assert activations.layers(stack) == [stack[0], shared, stack[3]]
    activations.checkpoint_layers(stack, 1)
    assert [m.gradient_checkpointing for m in (stack[0], stack[0].inner, shared, stack[3])] == [True, False, True, True]


def test_what_a_configuration_switches_on_is_switched_off() -> None:
    """Old folders on the hub have gradient_checkpointing in their configuration."""
    base = build("llama", gradient_checkpointing=True)
    assert base.is_activation_checkpointing
    activations.checkpoint_layers(base, None)
    assert not base.is_activation_checkpointing


# inputs in CPU memory


class Elsewhere(torch.autograd.graph.saved_tensors_hooks):
    """Stands in for `save_on_cpu` where there is no other device: what is packed is a copy, and noted."""

    packed: list[torch.Tensor]

    def __init__(self, pin_memory: bool, device_type: str):
        assert pin_memory
        super().__init__(self._pack, lambda copy: copy.clone())

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        Elsewhere.packed.append(tensor.detach().clone())
        return Elsewhere.packed[-1]


@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("family", DEEP)
def test_the_inputs_of_recomputed_layers_wait_elsewhere(
    family: str, interval: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly those, although GPT-2 hands masks over by position as well; what they were copied from is free after the forward."""
    monkeypatch.setattr(activations, "save_on_cpu", Elsewhere)
    objective, rows = objective_of(family), packed_batch()
    plain = trained(objective, rows)
    activations.checkpoint_layers(objective, interval, offload=True)
    inputs, originals = [], []

    def note(layer: nn.Module, given: tuple) -> None:
        inputs.append(given[0].detach().clone())
        originals.append(weakref.ref(given[0]))

    handles = [layer.register_forward_pre_hook(note) for layer in activations.layers(objective)[::interval]]
    Elsewhere.packed = []
    assert_same_bits(trained(objective, rows), plain)
    assert len(Elsewhere.packed) == len(inputs) == -(-LAYERS // interval)
    assert all(torch.equal(packed, given) for packed, given in zip(Elsewhere.packed, inputs, strict=True))
    originals.clear()
    loss = objective(**rows).terms["tokens"][0]
    for handle in handles:
        handle.remove()
    gc.collect()
    assert [original() for original in originals] == [None] * len(originals)
    loss.backward()


def test_a_layer_that_is_called_by_name_cannot_be_offloaded() -> None:
    layer = Inner().train()
    activations.checkpoint_layers(layer, 1, offload=True)
    with pytest.raises(RecipeError, match="activation_offloading: the layers of this model take .* by name"):
        layer(states=torch.ones(1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu_the_inputs_wait_in_pinned_memory() -> None:
    objective = objective_of("llama").cuda()
    rows = {name: tensor.cuda() for name, tensor in packed_batch().items()}
    plain = trained(objective, rows)
    activations.checkpoint_layers(objective, 1, offload=True)
    kept = []
    true_hooks = activations.save_on_cpu

    class Watched(true_hooks):
        def __init__(self, **options):
            super().__init__(**options)
            pack = self.pack_hook
            self.pack_hook = lambda tensor: kept.append((tensor.device.type, packed := pack(tensor))) or packed

    activations.save_on_cpu = Watched
    try:
        offloaded = trained(objective, rows)
    finally:
        activations.save_on_cpu = true_hooks
    torch.testing.assert_close(offloaded, plain)
    assert len(kept) == LAYERS
    assert all(origin == "cuda" and tensor.is_pinned() for origin, (_, tensor) in kept)


# what the plan refuses


def planned(path: Path, *words: str, device: str = "cuda", layers: int | None = LAYERS) -> plan.Plan:
    facts = dataclasses.replace(FACTS, recomputable_layers=layers)
    return plan.make(launcher.recipe.load(path, words), World(device=device, bf16=True), facts, None, "no data here")


def test_the_plan_says_which_layers_and_where(recipe: Path) -> None:
    made = planned(recipe, ON, f"{EVERY}=3", OFFLOAD)
    assert (made.gradient_checkpointing_interval, made.activation_offloading) == (3, True)
    assert planned(recipe).gradient_checkpointing_interval is None


@pytest.mark.parametrize(
    ("words", "where", "says"),
    [
        ([ON, f"{EVERY}=4"], {}, "interval: 4 is more than the 3 layers"),
        ([ON], {"layers": 0}, "gradient_checkpointing: transformers does not support it"),
        (
            [ON, OFFLOAD],
            {"device": "cpu"},
            "activation_offloading: activations are in CPU memory as they are, and there is no GPU",
        ),
    ],
)
def test_what_cannot_be_is_refused(recipe: Path, words: list[str], where: dict, says: str) -> None:
    with pytest.raises(RecipeError, match=f"^command line.*{says}"):
        planned(recipe, *words, **where)


def test_the_layers_are_counted_before_a_weight_is_read(recipe: Path) -> None:
    task, adapter = parts.load_whole("tasks", "causal_lm"), parts.load("adapters", "lora")
    assert model.facts(launcher.recipe.load(recipe), task, adapter).recomputable_layers == 2
    assert tiny.train(recipe, ON, f"{EVERY}=3") == 89
