"""torch.compile takes both operators whole: the same bits as without, for any number of rows, and a schema that is true."""

import functools
import importlib

import pytest
import torch
from cases import classes, draw, head, run
from launcher_kernels import cross_entropy, linear_cross_entropy
from launcher_kernels.output import EXTRAS
from torch._dynamo.utils import counters
from torch.library import opcheck

OPTIONS = {"reduction": "sum", "softcap": 5.0, "returns": EXTRAS}
LINEAR = {"num_items": 7, "label_smoothing": 0.1} | OPTIONS


@pytest.fixture
def compiled():
    """fn -> fn compiled without a break. `aot_eager` is all of it but the code generator, which needs a C++ compiler."""
    torch._dynamo.reset()
    counters.clear()
    yield functools.partial(torch.compile, fullgraph=True, backend="aot_eager")
    torch._dynamo.reset()


def assert_same_bits(ours, theirs):
    pairs = zip((*ours.result, *ours.gradients.values()), (*theirs.result, *theirs.gradients.values()), strict=True)
    assert all(b is None if a is None else torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_logits_with_any_number_of_rows(dtype, compiled):
    fast = compiled(lambda logits, target: cross_entropy(logits, target, **OPTIONS), dynamic=True)
    for num_rows in (6, 9, 17):
        case = {"logits": draw(num_rows, 33, dtype=dtype)}, classes(num_rows, 33, ignored=[0, 4])
        assert_same_bits(run(fast, *case), run(cross_entropy, *case, **OPTIONS))
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("method", ["auto", "recompute", "stream"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_linear_with_any_number_of_rows(method, dtype, compiled):
    def loss(x, weight, bias, target, lora):
        return linear_cross_entropy(x, weight, target, bias=bias, lora=lora, method=method, **LINEAR)

    fast = compiled(loss, dynamic=True)
    for num_rows in (6, 9, 17):
        tensors = head(num_rows, dtype=dtype, with_lora=True)
        if method == "stream":
            tensors = {name: t.requires_grad_(name in ("x", "lora_a")) for name, t in tensors.items()}
        target = classes(num_rows, 29, ignored=[0, 4])
        assert_same_bits(run(fast, tensors, target), run(loss, tensors, target))
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("function", [cross_entropy, linear_cross_entropy])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_other_reductions_and_a_gradient_from_above(function, reduction, compiled):
    fast = compiled(lambda **inputs: function(**inputs, reduction=reduction, shift=1), dynamic=False)
    tensors = head(6) if function is linear_cross_entropy else {"logits": draw(6, 29)}
    case = tensors, classes(6, 29, ignored=[3]), -0.5
    assert_same_bits(run(fast, *case), run(function, *case, reduction=reduction, shift=1))


def test_in_place_means_nothing_to_a_compiler(compiled):
    fast = compiled(lambda logits, target: cross_entropy(logits * 2, target, inplace=True).loss, dynamic=False)
    logits, target = draw(6, 29), classes(6, 29)
    fast(logits, target).backward()
    expected = run(lambda logits, target: cross_entropy(logits * 2, target), {"logits": logits}, target)
    assert torch.equal(logits.grad, expected.gradients["logits"])


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "options", [OPTIONS, {}, {"reduction": "none", "token_weight": torch.rand(6)}], ids=["sum", "mean", "none"]
)
@pytest.mark.parametrize("name", ["cross_entropy", "linear_cross_entropy"])
def test_the_operator_is_what_it_says(name, options, dtype, train, monkeypatch):
    """Shapes and types on tensors without data, inputs that stay as they are, a gradient that can be traced."""
    module = importlib.import_module(f"launcher_kernels.{name}")
    seen, operator = [], module._operator

    def recorded(**arguments):
        seen.append([arguments[key] for key in operator.names])
        return operator(**arguments)

    monkeypatch.setattr(module, "_operator", recorded)
    tensors = head(6, dtype=dtype) if name == "linear_cross_entropy" else {"logits": draw(6, 29, dtype=dtype)}
    for tensor in tensors.values():
        tensor.requires_grad_(train)
    getattr(module, name)(**tensors, target=classes(6, 29, ignored=[2]), **options)
    monkeypatch.undo()
    tests = ("test_schema", "test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic")
    opcheck(getattr(torch.ops.launcher_kernels, name).default, tuple(seen[0]), test_utils=tests if train else tests[:3])
