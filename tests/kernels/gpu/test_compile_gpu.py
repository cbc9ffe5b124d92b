"""Inside torch.compile: whole graphs, any number of rows, and the same bits as without it."""

from collections.abc import Callable

import pytest
import torch
from gpu_cases import DRY_RUN, draw, fit, head, labels, name_of
from launcher_kernels import cross_entropy, linear_cross_entropy

pytestmark = pytest.mark.gpu
BACKEND = "aot_eager" if DRY_RUN else "inductor"


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(function: Callable) -> Callable:
    return torch.compile(function, fullgraph=True, dynamic=True, backend=BACKEND)


def through(function: Callable, leaves: dict, *words) -> list:
    """The loss and all gradients."""
    fresh = {name: leaf.detach().clone().requires_grad_(leaf.requires_grad) for name, leaf in leaves.items()}
    loss = function(*fresh.values(), *words)
    asked = [leaf for leaf in fresh.values() if leaf.requires_grad]
    return [loss.detach(), *torch.autograd.grad(loss, asked)]


@pytest.mark.parametrize("knows_count", [True, False], ids=["n_valid", "counted"])
@pytest.mark.parametrize("method", ["chunk", "recompute", "stream"])
def test_linear_cross_entropy(method, knows_count, device):
    """Ignored rows are what went wrong elsewhere: a loss that is not written is whatever was in the buffer."""

    def loss_of(x, weight, bias, target, n_valid):
        result = linear_cross_entropy(
            x * 2, weight, target, bias=bias, reduction="sum", softcap=30.0, method=method, n_valid=n_valid
        )
        return result.loss * 3

    fast = compiled(loss_of)
    for num_rows in (512, 384, 1000, 77):
        sizes = fit(num_rows, 128, 32000)
        tensors, target = head(sizes, device, torch.bfloat16), labels(sizes[0], sizes[2], device, ignored=0.3)
        for name, tensor in tensors.items():
            tensor.requires_grad_(name == "x" or method != "stream")
        count = int((target != -100).sum()) if knows_count else None
        slow, quick = through(loss_of, tensors, target, count), through(fast, tensors, target, count)
        assert all(torch.equal(mine, other) for mine, other in zip(quick, slow, strict=True)), num_rows


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=name_of)
def test_cross_entropy(dtype, device):
    def loss_of(logits, target):
        return cross_entropy(logits * 2, target, reduction="sum", softcap=30.0, z_loss=1e-4).loss * 3

    fast = compiled(loss_of)
    for num_rows in (64, 48, 77):
        num_rows, vocabulary = fit(num_rows, 50257)
        leaves = {"logits": draw((num_rows, vocabulary), device, dtype).requires_grad_()}
        target = labels(num_rows, vocabulary, device, ignored=0.3)
        slow, quick = through(loss_of, leaves, target), through(fast, leaves, target)
        assert all(torch.equal(mine, other) for mine, other in zip(quick, slow, strict=True)), num_rows


def test_more_rows_do_not_compile_again(device):
    fast = compiled(lambda x, weight, target: linear_cross_entropy(x * 2, weight, target, reduction="sum").loss)
    for i, num_rows in enumerate((512, 384, 1000)):
        sizes = fit(num_rows, 128, 8000)
        tensors, target = head(sizes, device, torch.bfloat16, bias=False), labels(sizes[0], sizes[2], device)
        leaves = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
        with torch._dynamo.config.patch(error_on_recompile=i > 0):
            through(fast, leaves, target)


def test_evaluation(device):
    """Without gradients, and with everything that can come back."""
    returns = ("correct", "argmax", "entropy", "logsumexp", "z_loss")

    def all_of(x, weight, target):
        return tuple(linear_cross_entropy(x, weight, target, returns=returns, z_loss=1e-4))

    sizes = fit(200, 128, 32000)
    tensors, target = head(sizes, device, torch.bfloat16, bias=False), labels(sizes[0], sizes[2], device, ignored=0.3)
    with torch.no_grad():
        slow = all_of(tensors["x"], tensors["weight"], target)
        quick = compiled(all_of)(tensors["x"], tensors["weight"], target)
    assert all(torch.equal(mine, other) for mine, other in zip(quick, slow, strict=True))
