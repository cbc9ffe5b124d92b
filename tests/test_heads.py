"""Which heads are known by their class, and what a configuration says about their logits."""

import pytest
import torch
from torch import nn

from launcher.heads import resolve


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
    head, _ = resolve(Model(nn.Linear(4, 11), **config))
    assert (head.softcap, head.scale) == (softcap, scale)


class Scaled(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


@pytest.mark.parametrize("head", [None, nn.Identity(), Scaled(4, 11), nn.Sequential(nn.Linear(4, 11))])
def test_a_head_that_is_not_just_linear_is_named(head):
    found, reason = resolve(Model(head))
    assert found is None and type(head).__name__ in reason


def test_a_model_without_a_decoder_of_its_own_is_named():
    model = Model(nn.Linear(4, 11))
    del model.base_model
    type(model).base_model = property(lambda self: self)  # what Transformers does where the prefix names no attribute
    try:
        found, reason = resolve(model)
    finally:
        del type(model).base_model
    assert found is None and "Model names no decoder" in reason


def test_a_weight_that_is_no_plain_tensor_is_named():
    class Special(torch.Tensor):
        pass

    linear = nn.Linear(4, 11)
    linear._parameters["weight"] = linear.weight.data.as_subclass(Special)
    found, reason = resolve(Model(linear))
    assert found is None and "weight is a Special" in reason


@pytest.mark.parametrize("in_a_row", [False, True])
def test_a_head_that_is_offloaded_is_named(in_a_row):
    from accelerate.hooks import AlignDevicesHook, SequentialHook

    linear = nn.Linear(4, 11)
    hook = AlignDevicesHook(offload=True)
    linear._hf_hook = SequentialHook(AlignDevicesHook(), hook) if in_a_row else hook
    found, reason = resolve(Model(linear))
    assert found is None and "offloaded" in reason
    linear._hf_hook = AlignDevicesHook()
    assert resolve(Model(linear))[0] is not None
