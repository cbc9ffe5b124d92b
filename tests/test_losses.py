"""The door to the kernels: which heads it recognises, and that both ways through it agree."""

import pytest
import torch
from torch import nn

from launcher.losses import Head, from_hidden, from_logits, logits_of, resolve_head


class Config:
    def __init__(self, **values):
        self.__dict__.update(values)

    def get_text_config(self):
        return self


class Model(nn.Module):
    def __init__(self, head, **config):
        super().__init__()
        self.base_model, self.head, self.config = nn.Identity(), head, Config(**config)

    def get_output_embeddings(self):
        return self.head


def batch(dtype=torch.float64):
    torch.manual_seed(0)
    hidden, labels = torch.randn(2, 5, 4, dtype=dtype), torch.randint(11, (2, 5))
    labels[0, :3] = -100
    return hidden, labels


@pytest.mark.parametrize("head", [Head(nn.Linear(4, 11)), Head(nn.Linear(4, 11, bias=False), softcap=1.5, scale=2.0)])
def test_both_ways_give_the_same(head):
    hidden, labels = batch()
    head.linear.double()
    for ours, plain in zip(
        from_hidden(hidden, head, labels), from_logits(logits_of(hidden, head), labels), strict=True
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize("way", ["fused", "torch"])
def test_a_bf16_loss_is_summed_in_fp32(way):
    hidden, labels = batch(torch.bfloat16)
    head = Head(nn.Linear(4, 11, dtype=torch.bfloat16))
    many = hidden.repeat(500, 1, 1), labels.repeat(500, 1)
    loss, _ = from_hidden(many[0], head, many[1]) if way == "fused" else from_logits(head.linear(many[0]), many[1])
    once, _ = from_hidden(hidden, head, labels)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(500 * float(once), rel=1e-4)  # bf16 would stop growing at 256


def test_autocast_decides_the_precision_of_the_product():
    hidden, labels = batch(torch.float32)
    head = Head(nn.Linear(4, 11))
    low = Head(nn.Linear(4, 11, dtype=torch.bfloat16))
    low.linear.load_state_dict(head.linear.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = from_hidden(hidden, head, labels)
    assert torch.equal(loss, from_hidden(hidden.bfloat16(), low, labels)[0])
    loss.backward()
    assert head.linear.weight.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("config", "softcap", "scale"),
    [
        ({}, None, 1.0),
        ({"final_logit_softcapping": 30.0}, 30.0, 1.0),
        ({"final_logit_softcapping": None, "logit_scale": None, "logits_scaling": None}, None, 1.0),
        ({"logit_scale": 0.0625}, None, 0.0625),
        ({"logits_scaling": 8.0}, None, 0.125),
    ],
)
def test_what_a_configuration_says_about_the_logits(config, softcap, scale):
    head, _ = resolve_head(Model(nn.Linear(4, 11), **config))
    assert (head.softcap, head.scale) == (softcap, scale)


class Scaled(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


@pytest.mark.parametrize("head", [None, nn.Identity(), Scaled(4, 11), nn.Sequential(nn.Linear(4, 11))])
def test_a_head_that_is_not_just_linear_is_named(head):
    found, reason = resolve_head(Model(head))
    assert found is None and type(head).__name__ in reason


def test_a_model_without_a_decoder_of_its_own_is_named():
    model = Model(nn.Linear(4, 11))
    del model.base_model
    type(model).base_model = property(lambda self: self)  # what Transformers does where the prefix names no attribute
    try:
        found, reason = resolve_head(model)
    finally:
        del type(model).base_model
    assert found is None and "Model names no decoder" in reason
