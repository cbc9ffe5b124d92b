"""The bytes that layers keep by formula, against those counted on a model whose saved tensors are looked at one by one."""

import contextlib
import weakref
from collections import defaultdict

import peft
import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from launcher import activations
from launcher.activation_memory import (
    Decoder,
    Numerics,
    converted_weight_bytes,
    kept_bytes,
    layer_bytes_per_token,
    peak_bytes,
)

SHAPE = Decoder(layers=5, hidden=64, intermediate=160, heads=4, kv_heads=2, head_dim=24)
ROWS, LENGTH = 2, 37
TOKENS = ROWS * LENGTH
# name -> dtype of the weights, autocast to bf16, LoRA's rank, LoRA's dropout
WAYS = {
    "full fp32": (torch.float32, False, 0, 0.0),
    "full bf16 autocast": (torch.float32, True, 0, 0.0),
    "full bf16 weights": (torch.bfloat16, True, 0, 0.0),
    "lora fp32": (torch.float32, False, 8, 0.0),
    "lora bf16 autocast": (torch.bfloat16, True, 8, 0.0),
    "lora fp32 dropout": (torch.float32, False, 8, 0.1),
    "lora bf16 autocast dropout": (torch.bfloat16, True, 8, 0.1),
}


def model_of(family: str, way: str) -> torch.nn.Module:
    dtype, _, rank, dropout = WAYS[way]
    config = transformers.AutoConfig.for_model(
        family,
        vocab_size=50,
        hidden_size=SHAPE.hidden,
        intermediate_size=SHAPE.intermediate,
        num_hidden_layers=SHAPE.layers,
        num_attention_heads=SHAPE.heads,
        num_key_value_heads=SHAPE.kv_heads,
        head_dim=SHAPE.head_dim,
        sliding_window=None,
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").train()
    if rank:
        model = peft.get_peft_model(
            model, peft.LoraConfig(r=rank, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
        )
    return model


def numerics_of(way: str) -> Numerics:
    dtype, autocast, rank, dropout = WAYS[way]
    return Numerics(dtype.itemsize, 2 if autocast else dtype.itemsize, rank, dropout > 0, dropout_mask=4)


def counted_bytes(model: torch.nn.Module, autocast: bool, masked: bool) -> list[int]:
    """By layer: bytes of the storages that its graph alone holds and that are no parameter, each counted once."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}
    holders: dict[int, set[int]] = defaultdict(set)
    inside: list[int | None] = [None]

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if inside[0] is not None and storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
            holders[storage.data_ptr()].add(inside[0])
        return tensor

    found = activations.layers(model)
    for number, layer in enumerate(found):
        layer.register_forward_pre_hook(lambda *_, number=number: inside.__setitem__(0, number))
        layer.register_forward_hook(lambda *_: inside.__setitem__(0, None))
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    half = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
    with half, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = base.model(input_ids=torch.randint(50, (ROWS, LENGTH)), use_cache=False, **where(masked))
    assert states.last_hidden_state.requires_grad
    mine = [{pointer for pointer, numbers in holders.items() if numbers == {number}} for number in range(len(found))]
    return [sum(kept[pointer].nbytes() for pointer in pointers) for pointers in mine]


def where(masked: bool) -> dict[str, torch.Tensor]:
    if not masked:
        return {"position_ids": torch.arange(LENGTH).repeat(ROWS, 1)}
    mask = torch.ones(ROWS, LENGTH, dtype=torch.long)
    mask[0, -3:] = 0
    return {"attention_mask": mask}


CASES = [
    (family, way, masked) for way in WAYS for family, masked in (("llama", False), ("llama", True), ("qwen3", False))
]
CASES += [("mistral", "full bf16 autocast", False), ("qwen2", "full bf16 autocast", False)]


@pytest.mark.parametrize(("family", "way", "masked"), CASES)
def test_a_layer_keeps_what_the_formula_says(family: str, way: str, masked: bool) -> None:
    """To the byte; only the first layer keeps less where the embedding below it is frozen."""
    numerics, mask_length = numerics_of(way), LENGTH if masked else 0
    model = model_of(family, way)
    shape = Decoder.of(model.config)
    whole = TOKENS * layer_bytes_per_token(shape, numerics, mask_length) + converted_weight_bytes(shape, numerics)
    first, *others = counted_bytes(model, WAYS[way][1], masked)
    assert others == [whole] * (SHAPE.layers - 1)
    assert first == whole if "full" in way else 0.75 * whole < first < whole
    assert kept_bytes(shape, numerics, TOKENS, None, mask_length=mask_length) == SHAPE.layers * whole


class Live(TorchDispatchMode):
    """Counts the bytes of all storages that operators make, for as long as they live; `peak` is the most there were."""

    def __init__(self, given: list[torch.Tensor]):
        super().__init__()
        self.bytes = self.peak = 0
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in given}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        made = operator(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes()
                self.bytes += storage.nbytes()
                self.peak = max(self.peak, self.bytes)
                weakref.finalize(storage, self._free, storage._cdata)
        return made

    def _free(self, pointer: int) -> None:
        self.bytes -= self._sizes.pop(pointer)


def live_bytes(way: str, interval: int | None) -> tuple[int, int]:
    """After the forward pass, and at the peak of the backward pass."""
    model = model_of("llama", way)
    activations.checkpoint_layers(model, interval)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    ids, positions = torch.randint(50, (ROWS, LENGTH)), where(False)["position_ids"]
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    half = torch.autocast("cpu", torch.bfloat16) if WAYS[way][1] else contextlib.nullcontext()
    given = [tensor for p in model.parameters() for tensor in (p, p.grad)]
    with Live([*given, ids, positions, *model.buffers()]) as live:
        with half:
            states = base.model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
        after_forward = live.bytes
        loss = states.float().sum()
        live.peak = live.bytes
        loss.backward()
    return after_forward, live.peak


@pytest.mark.parametrize("way", ["full fp32", "lora bf16 autocast"])
def test_what_is_kept_follows_the_interval(way: str) -> None:
    """Against all memory that is alive. What lies outside of the layers is the same for every interval."""
    numerics = numerics_of(way)
    layer = TOKENS * layer_bytes_per_token(SHAPE, numerics)
    outside = live_bytes(way, 1)[0] - kept_bytes(SHAPE, numerics, TOKENS, 1)
    assert 0 < outside < 0.2 * layer
    for interval in (2, 3, 5):
        kept, peak = live_bytes(way, interval)
        assert kept == outside + kept_bytes(SHAPE, numerics, TOKENS, interval)
        temporary = peak - outside - peak_bytes(SHAPE, numerics, TOKENS, interval)
        assert 0 <= temporary < 0.5 * layer


def test_off_every_layer_and_offloaded() -> None:
    numerics = Numerics(weight=2, product=2, lora_rank=8)
    off, full, half = (kept_bytes(SHAPE, numerics, TOKENS, interval) for interval in (None, 1, 2))
    assert full == SHAPE.layers * TOKENS * SHAPE.hidden * 2
    assert half == pytest.approx((2 * off + 3 * full) / 5)
    assert kept_bytes(SHAPE, numerics, TOKENS, 1, offload=True) == 0
    assert peak_bytes(SHAPE, numerics, TOKENS, 1) == full + off / SHAPE.layers
    assert peak_bytes(SHAPE, numerics, TOKENS, 3) == kept_bytes(SHAPE, numerics, TOKENS, 3)


def test_a_model_that_nobody_counted_has_no_formula() -> None:
    assert Decoder.of(transformers.GPT2Config()) is None
    assert Decoder.of(transformers.MixtralConfig()) is None
