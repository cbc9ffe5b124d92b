"""Cross-entropy of given logits on a GPU against fp64: values, options, and rows that other kernels got wrong."""

import itertools
import math

import pytest
import torch
from gpu_cases import FP32, HALVES, distance, draw, exact, fit, labels, name_of, run, skip_without_memory, units
from launcher_kernels import cross_entropy, reference
from torch.nn import functional

pytestmark = pytest.mark.gpu
SHAPES = [
    (7, 13),
    (4, 257),
    (8, 1000),
    (3, 4099),
    (512, 32000),
    (256, 50257),
    (128, 128256),
    (64, 151936),
    (64, 262144),
]
OPTIONS = {
    "label_smoothing": [0.0, 0.1, 0.9],
    "z_loss": [0.0, 1e-4, 1e-2],
    "softcap": [None, 1.0, 5.0, 30.0],
    "scale": [1.0, 0.7],
    "class_weight": [False, True],
    "ignore_index": [-100, 2],
    "token_weight": [False, True],
}


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=name_of)
@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
def test_loss_and_gradient(shape, dtype, device):
    """One rounding of the exact gradient; fp16's waits for 1/N until the end, which is a second one."""
    num_rows, vocabulary = fit(*shape)
    tensors = {"logits": draw((num_rows, vocabulary), device, dtype, size=2.0)}
    target = labels(num_rows, vocabulary, device, ignored=0.2)
    target[0] = vocabulary - 1
    count = int((target != -100).sum())
    truth = exact(tensors, target)
    for reduction, factor in (("mean", 1 / count), ("sum", 1.0), ("none", 1.0)):
        ours = run(cross_entropy, tensors, target, reduction=reduction)
        gradient, expected = ours.gradients["logits"], truth.gradients["logits"] * factor
        assert ours.loss.dtype == torch.float32 and gradient.dtype == dtype
        assert distance(ours.loss.sum(), truth.loss * factor) <= FP32, reduction
        if dtype == torch.float32:
            assert distance(gradient, expected) <= FP32, reduction
        else:
            assert units(gradient, expected) <= (1.52 if (reduction, dtype) == ("mean", torch.float16) else 0.51), (
                reduction
            )


def all_pairs(options: dict[str, list]) -> list[dict]:
    """Few combinations in which every two values of different options meet."""
    names = list(options)
    missing = {
        frozenset([(a, x), (b, y)])
        for a, b in itertools.combinations(names, 2)
        for x, y in itertools.product(range(len(options[a])), range(len(options[b])))
    }
    rows = []
    everything = list(itertools.product(*(range(len(options[name])) for name in names)))
    while missing:
        pairs = [{frozenset(p) for p in itertools.combinations(zip(names, row, strict=True), 2)} for row in everything]
        best = max(range(len(everything)), key=lambda i: len(pairs[i] & missing))
        missing -= pairs[best]
        rows.append({name: options[name][i] for name, i in zip(names, everything[best], strict=True)})
    return rows


@pytest.mark.parametrize("options", all_pairs(OPTIONS), ids=lambda o: ",".join(f"{k[:2]}={v}" for k, v in o.items()))
def test_options(options, device):
    num_rows, vocabulary = fit(64, 32000)
    target = labels(num_rows, vocabulary, device)
    target[::5] = options["ignore_index"]
    weights = {"class_weight": vocabulary, "token_weight": num_rows}
    options = options | {
        name: draw((size,), device, torch.float32, seed=size).abs() if options[name] else None
        for name, size in weights.items()
    }
    tensors = {"logits": draw((num_rows, vocabulary), device, torch.float32, size=3.0)}
    truth = exact(tensors, target, **options)
    ours = run(cross_entropy, tensors, target, reduction="sum", **options)
    assert distance(ours.loss, truth.loss) <= FP32
    assert distance(ours.gradients["logits"], truth.gradients["logits"]) <= FP32
    mean = run(cross_entropy, tensors, target, **options)
    expected = run(reference.cross_entropy, {"logits": tensors["logits"].double()}, target, **options)
    assert distance(mean.loss, expected.loss) <= FP32
    assert distance(mean.gradients["logits"], expected.gradients["logits"]) <= FP32


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", HALVES, ids=name_of)
@pytest.mark.parametrize("probability", [0.9, 0.99, 0.999, 0.9999])
def test_confident_predictions(probability, dtype, smoothing, device):
    """Rounding p before one is taken off leaves nothing of the target's gradient."""
    num_rows, vocabulary = fit(128, 4096)
    odds = math.log(probability / (1 - probability) * (vocabulary - 1))
    target = labels(num_rows, vocabulary, device)
    logits = draw((num_rows, vocabulary), device, torch.float32, size=0.1)
    logits[torch.arange(num_rows), target] = odds
    tensors, options = {"logits": logits.to(dtype)}, {"label_smoothing": smoothing}
    truth = exact(tensors, target, **options).gradients["logits"].gather(1, target[:, None])
    plain = tensors["logits"].clone().requires_grad_()
    functional.cross_entropy(plain.float(), target, reduction="sum", **options).backward()
    ours = run(cross_entropy, tensors, target, reduction="sum", **options).gradients["logits"]
    theirs = distance(plain.grad.gather(1, target[:, None]), truth)
    of_one_minus_p = torch.finfo(torch.float32).eps / (1 - probability)  # what fp32 can tell
    assert distance(ours.gather(1, target[:, None]), truth) <= 1.05 * theirs + of_one_minus_p


@pytest.mark.parametrize("softcap", [None, 1.0])
@pytest.mark.parametrize("vocabulary", [152064, 151936, 129920, 513])
def test_rows_that_are_no_bell_curves(vocabulary, softcap, device):
    """What lies beyond the last column must count for nothing, even where the logits are lower than what it would be."""
    (vocabulary,) = fit(vocabulary)
    logits = draw((5, vocabulary), device, torch.float32)
    logits[0] = -15.0
    logits[0, vocabulary - 1] = 3.0
    logits[1] = -1e4
    logits[2] = logits[2] * 1e4
    logits[3, 1] = -math.inf
    target = torch.tensor([vocabulary - 1, 0, 5, 3, 7], device=device)
    found = cross_entropy(logits, target, softcap=softcap, reduction="none", returns=("logsumexp",))
    truth = reference.cross_entropy(logits.double(), target, softcap=softcap, reduction="none", returns=("logsumexp",))
    torch.testing.assert_close(found.logsumexp.double(), truth.logsumexp, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.loss.double(), truth.loss, rtol=1e-5, atol=1e-5)
    gradient = run(cross_entropy, {"logits": logits}, target, softcap=softcap).gradients["logits"]
    assert gradient.isfinite().all()


def test_infinite_logits(device):
    """Minus infinity at the target is an infinite loss with a finite gradient; plus infinity anywhere is no number."""
    (vocabulary,) = fit(32000)
    logits = draw((3, vocabulary), device, torch.float32)
    logits[0, 4] = -math.inf
    logits[1, 9] = math.inf
    target = torch.tensor([4, 4, 4], device=device)
    ours = run(cross_entropy, {"logits": logits}, target, reduction="none")
    assert ours.loss[0] == math.inf and ours.gradients["logits"][0].isfinite().all()
    assert not ours.loss[1].isfinite()
    assert ours.loss[2].isfinite() and ours.gradients["logits"][2].isfinite().all()


@pytest.mark.parametrize("share", [0.0, 0.2, 0.99, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name_of)
def test_ignored_rows(dtype, share, device):
    num_rows, vocabulary = fit(200, 32000)
    tensors = {"logits": draw((num_rows, vocabulary), device, dtype)}
    target = labels(num_rows, vocabulary, device, ignored=share)
    if 0 < share < 1:
        target[[0, -1]] = -100
        target[3] = 5
    counted = {"sum": {"reduction": "sum"}, "items": {"num_items": 7}, "mean": {"reduction": "mean"}}
    for name, options in counted.items():
        ours = run(cross_entropy, tensors, target, **options)
        assert not ours.gradients["logits"][target == -100].any(), name
        if share == 1.0:
            assert bool(ours.loss.isnan()) if name == "mean" else float(ours.loss) == 0, name
            assert not ours.gradients["logits"].any()
        else:
            assert ours.loss.isfinite() and ours.gradients["logits"].isfinite().all()


def test_gradients_for_every_row(device):
    """A different one for each row, the same one for all by a stride of zero, and the same as token weights."""
    num_rows, vocabulary = 33, 101
    tensors = {"logits": draw((num_rows, vocabulary), device, torch.float32)}
    target = labels(num_rows, vocabulary, device, ignored=0.2)
    weight = draw((num_rows,), device, torch.float32, seed=5)
    truth = exact(tensors, target, token_weight=weight).gradients["logits"]
    by_row = run(cross_entropy, tensors, target, upstream=weight, reduction="none").gradients["logits"]
    by_weight = run(cross_entropy, tensors, target, token_weight=weight, reduction="sum").gradients["logits"]
    assert max(distance(by_row, truth), distance(by_weight, truth)) <= FP32
    same = torch.full((1,), 0.3, device=device).expand(num_rows)
    by_stride = run(cross_entropy, tensors, target, upstream=same, reduction="none").gradients["logits"]
    assert distance(by_stride, exact(tensors, target).gradients["logits"] * 0.3) <= FP32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name_of)
@pytest.mark.parametrize("vocabulary", [32000, 128256])
def test_extras(vocabulary, dtype, device):
    num_rows, vocabulary = fit(96, vocabulary)
    logits = draw((num_rows, vocabulary), device, dtype, size=3.0)
    target = labels(num_rows, vocabulary, device, ignored=0.2)
    logits[::3] = logits[::3].round()  # several largest ones: the first counts
    target[::2] = torch.where(target[::2] >= 0, logits[::2].argmax(1), -100)
    returns = ("correct", "argmax", "entropy", "logsumexp", "z_loss")
    options = {"z_loss": 1e-3, "reduction": "sum", "returns": returns}
    found = cross_entropy(logits, target, **options)
    truth = reference.cross_entropy(logits.double(), target, **options)
    first = torch.where(target >= 0, (logits == logits.amax(1, keepdim=True)).to(torch.uint8).argmax(1), -1)
    assert torch.equal(found.argmax, first)
    assert int(found.correct) == int(((first == target) & (target >= 0)).sum())
    for name, tolerance in (
        ("entropy", 1e-5),
        ("logsumexp", FP32),
        ("z_loss", FP32),
    ):  # entropy: a difference of two lse
        value, expected = getattr(found, name).double(), getattr(truth, name)
        torch.testing.assert_close(value, expected, rtol=FP32, atol=tolerance, msg=name)


def test_more_logits_than_32_bits_can_count(device):
    """20,000 x 131,072: row * stride exceeds 2^31 from row 16,384 on. The last rows must be what they are alone."""
    skip_without_memory(24)
    num_rows, vocabulary = fit(20000, 131072)
    logits = torch.empty(num_rows, vocabulary, device=device, dtype=torch.bfloat16).normal_().requires_grad_()
    target = labels(num_rows, vocabulary, device)
    found = cross_entropy(logits, target, reduction="none", returns=("argmax", "logsumexp"))
    (gradient,) = torch.autograd.grad(found.loss.sum(), logits)
    last = logits.detach()[-8:].clone().requires_grad_()
    alone = cross_entropy(last, target[-8:], reduction="none", returns=("argmax", "logsumexp"))
    (expected,) = torch.autograd.grad(alone.loss.sum(), last)
    assert torch.equal(gradient[-8:], expected) and torch.equal(found.loss[-8:], alone.loss)
    assert torch.equal(found.argmax[-8:], alone.argmax) and torch.equal(found.logsumexp[-8:], alone.logsumexp)


@pytest.mark.parametrize("vocabulary", [4096, 50257, 131072])
def test_in_place_is_the_same_every_time(vocabulary, device):
    """The gradient overwrites the logits, and with them the target's: whoever still reads that one reads too late."""
    num_rows, vocabulary = fit(2048, vocabulary)
    logits = draw((num_rows, vocabulary), device, torch.bfloat16, size=3.0)
    target = labels(num_rows, vocabulary, device)
    outside = run(cross_entropy, {"logits": logits}, target, reduction="sum")
    for _ in range(10):
        leaf = logits.clone().requires_grad_()
        loss = cross_entropy(leaf * 1, target, reduction="sum", inplace=True).loss
        loss.backward()
        assert torch.equal(loss, outside.loss) and torch.equal(leaf.grad, outside.gradients["logits"])
