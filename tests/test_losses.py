"""The door to the kernels: both ways through it agree."""

import re

import pytest
import torch
from torch import nn

from launcher.heads import Head, Lora, Slices
from launcher.losses import from_hidden, from_logits, logits_of, way


def batch(dtype=torch.float64):
    torch.manual_seed(0)
    hidden, labels = torch.randn(2, 5, 4, dtype=dtype), torch.randint(11, (2, 5))
    labels[0, :3] = -100
    return hidden, labels


def number(*shape, dtype=torch.float64):
    torch.manual_seed(1)
    return torch.randn(shape, dtype=dtype).requires_grad_()


def head(dtype=torch.float64, **more):
    return Head(number(11, 4, dtype=dtype), number(11, dtype=dtype), **more)


def in_slices():
    weight = number(11, 4).detach()
    return Head(Slices((11, 4), weight.dtype, weight.device, lambda start, stop: weight[start:stop]), number(11))


HEADS = {
    "bias": head(),
    "softcap and scale": Head(number(11, 4), softcap=1.5, scale=2.0),
    "LoRA": head(lora=Lora(number(3, 4), number(11, 3), 0.5, nn.Identity()), scale=2.0),
    "slices": in_slices(),
}


@pytest.mark.parametrize("name", HEADS)
def test_both_ways_give_the_same(name):
    (hidden, labels), head = batch(), HEADS[name]
    hidden.requires_grad_()
    fused, plain = from_hidden(hidden, head, labels), from_logits(logits_of(hidden, head), labels)
    trained = [hidden, *head.tensors().values()]
    assert fused[1] == plain[1]
    torch.testing.assert_close(fused[0], plain[0], rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(loss, trained) for loss, _ in (fused, plain)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_a_wrong_number_of_labels_is_found():
    hidden, labels = batch()
    told = from_hidden(hidden, head(), labels, 7)
    assert torch.equal(told[0], from_hidden(hidden, head(), labels)[0])
    with pytest.raises((ValueError, RuntimeError)):
        from_hidden(hidden, head(), labels, 6)


@pytest.mark.parametrize("way", ["fused", "torch"])
def test_a_bf16_loss_is_summed_in_fp32(way):
    (hidden, labels), low = batch(torch.bfloat16), head(torch.bfloat16)
    many = hidden.repeat(500, 1, 1), labels.repeat(500, 1)
    loss, _ = from_hidden(many[0], low, many[1]) if way == "fused" else from_logits(logits_of(many[0], low), many[1])
    once, _ = from_hidden(hidden, low, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(500 * once.item(), rel=1e-4)  # bf16 would stop growing at 256


def test_autocast_decides_the_precision_of_the_product():
    (hidden, labels), high = batch(torch.float32), head(torch.float32)
    low = Head(high.weight.bfloat16(), high.bias.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = from_hidden(hidden, high, labels)
    torch.testing.assert_close(loss, from_hidden(hidden.bfloat16(), low, labels)[0], rtol=2**-8, atol=0)
    loss.backward()
    assert high.weight.grad.dtype == torch.float32
    assert not torch.equal(high.weight.grad, high.weight.grad.bfloat16().float()), (
        "rounded on its way to an fp32 weight"
    )


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (Head(torch.empty(32000, 64, device="meta")), "chunk.*frozen"),
        (Head(torch.empty(32000, 64, device="meta", requires_grad=True)), "chunk.*trained"),
        (in_slices(), "recompute.*slices"),
    ],
)
def test_the_way_is_told_for_shapes_alone(head, says):
    chosen = way(head, 4096, torch.bfloat16, torch.bfloat16, "cuda")
    assert re.search(says, str(chosen)) and chosen.extra_bytes > 100_000
