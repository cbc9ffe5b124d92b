"""The gradients against differences of the loss itself, in fp64: an argument that does not rest on the twin."""

import functools

import pytest
import torch
from cases import LORA_SCALE, all_pairs, classes, draw, head
from launcher_kernels import cross_entropy, linear_cross_entropy
from torch.autograd import gradcheck
from torch.autograd.gradcheck import gradgradcheck

NUM_ROWS, VOCABULARY = 4, 11
check = functools.partial(gradcheck, eps=1e-6, atol=1e-5)
SHARED = {
    "softcap": [None, 2.0],
    "scale": [1.0, 0.7],
    "label_smoothing": [0.0, 0.2],
    "z_loss": [0.0, 0.05],
    "class_weight": [None, draw(VOCABULARY, seed=5).detach().abs()],
    "token_weight": [None, draw(NUM_ROWS, seed=6).detach().abs()],
    "reduction": ["mean", "sum", "none"],
}
OF_LOGITS = all_pairs(**SHARED)
OF_HEAD = all_pairs(**SHARED, method=["chunk", "recompute", "stream"])


@pytest.mark.parametrize("options", OF_LOGITS, ids=range(len(OF_LOGITS)))
def test_logits(options, kernels):
    logits, target = draw(NUM_ROWS, VOCABULARY, size=2.0), classes(NUM_ROWS, VOCABULARY, ignored=[1])
    assert check(lambda z: cross_entropy(z, target, **options).loss, (logits,), fast_mode=kernels != "torch")


@pytest.mark.parametrize("options", OF_HEAD, ids=range(len(OF_HEAD)))
def test_inputs_and_head(options, small_pieces):
    small_pieces(rows=2, columns=4)
    tensors = head(NUM_ROWS, 5, VOCABULARY, with_lora=True)
    if options["method"] == "stream":
        tensors = {name: t.requires_grad_(name in ("x", "lora_a")) for name, t in tensors.items()}
    target = classes(NUM_ROWS, VOCABULARY, ignored=[1])

    def loss(x, weight, bias, a, b):
        return linear_cross_entropy(x, weight, target, bias=bias, lora=(a, b, LORA_SCALE), **options).loss

    assert check(loss, tuple(tensors.values()))


@pytest.mark.parametrize("method", ["chunk", "recompute"])
def test_inputs_and_head_with_triton(method, triton_kernels, small_pieces):
    small_pieces(rows=2, columns=4)
    tensors, target = head(NUM_ROWS, 5, VOCABULARY), classes(NUM_ROWS, VOCABULARY, ignored=[1])
    options = {"method": method, "softcap": 2.0, "label_smoothing": 0.2, "z_loss": 0.05}

    def loss(x, weight, bias):
        return linear_cross_entropy(x, weight, target, bias=bias, **options).loss

    assert check(loss, tuple(tensors.values()), fast_mode=True)


def test_second_derivatives_cannot_be_had():
    with pytest.raises(RuntimeError, match="no second derivatives"):
        gradgradcheck(lambda z: cross_entropy(z, classes(2, 5)).loss, (torch.zeros(2, 5).double().requires_grad_(),))
