"""The language-model loss inside real architectures: fused against plain, packed against padded, and who must be refused."""

import copy

import numpy as np
import pytest
import torch
from families import (
    BERT,
    FAMILIES,
    LLAMA,
    OPT,
    VOCABULARY,
    assert_same,
    build,
    examples,
    lora,
    loss_and_gradients,
    packed_batch,
    padded_batch,
)

from launcher.data import collate
from launcher.errors import RecipeError
from launcher.model import check_packing
from launcher.tasks.causal_lm.objective import Objective

PACKABLE = ["llama", "gpt2", "qwen3", "mistral", "gemma3_text", "qwen3_moe"]


# fused against plain


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_fused_equals_plain(family, tied):
    model = build(family, tie_word_embeddings=tied)
    fused, plain = Objective(model, "fused"), Objective(model, "torch")
    assert (fused.implementation, plain.implementation) == ("fused", "torch")
    assert_same(loss_and_gradients(fused, padded_batch()), loss_and_gradients(plain, padded_batch()))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_fused_equals_plain_under_lora(family):
    model = lora(build(family))
    fused, plain = Objective(model, "fused"), Objective(model, "torch")
    ours = loss_and_gradients(fused, padded_batch())
    assert all("lora" in name for name in ours[2])
    assert_same(ours, loss_and_gradients(plain, padded_batch()))


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_under_autocast_fused_is_as_exact_as_plain(family):
    """Each is measured against fp64: bf16 itself is far off, so the two are not compared with each other."""
    model = build(family, "sdpa")  # eager masks overflow in fp64
    truth = loss_and_gradients(Objective(copy.deepcopy(model).double(), "torch"), padded_batch())
    errors = {}
    for implementation in ("fused", "torch"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, _, gradients = loss_and_gradients(Objective(model, implementation), padded_batch())
        assert all(g.dtype == torch.float32 for g in gradients.values())
        norms = {n: float((g.double() - truth[2][n]).norm() / truth[2][n].norm()) for n, g in gradients.items()}
        errors[implementation] = abs(loss / truth[0] - 1), float(np.mean(list(norms.values())))
    assert errors["fused"][0] <= errors["torch"][0] + 2**-9
    assert errors["fused"][1] <= 1.2 * errors["torch"][1]


@pytest.mark.parametrize("batch", [padded_batch(), packed_batch()], ids=["padded", "packed"])
@pytest.mark.parametrize("family", ["llama", "phi", "gemma3_text"])  # phi has a bias, gemma a softcap
def test_smoothing_is_the_formula_in_training_and_nothing_in_evaluation(family, batch):
    """Fused and plain, against PyTorch's definition by hand in fp64."""
    model = build(family, "sdpa")
    with torch.no_grad():
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        logs = copy.deepcopy(model).double()(**inputs, use_cache=False).logits.log_softmax(-1)
    known = batch["labels"] != -100
    picked = logs[known].gather(-1, batch["labels"][known, None]).squeeze(-1)
    plain, by_hand = float(-picked.sum()), float(-(0.8 * picked + 0.2 * logs[known].mean(-1)).sum())
    fused, torchs = (Objective(model, implementation, label_smoothing=0.2) for implementation in ("fused", "torch"))
    for objective in (fused, torchs):
        assert float(objective.train()(**batch).terms["tokens"][0]) == pytest.approx(by_hand, rel=1e-5)
        assert float(objective.eval()(**batch).terms["tokens"][0]) == pytest.approx(plain, rel=1e-5)
    assert_same(loss_and_gradients(fused.train(), batch), loss_and_gradients(torchs.train(), batch))


@pytest.mark.parametrize("implementation", ["fused", "torch"])
def test_counts_are_known_before_the_forward_pass(implementation):
    objective = Objective(build("llama"), implementation)
    for batch in (padded_batch(), packed_batch(), collate.padded([], lambda i: examples()[i], 0)):
        loss, counts = objective(**batch), objective.counts(batch)
        assert counts == {"tokens": int(loss.terms["tokens"][1])}
        assert int(loss.metrics["token_accuracy"][1]) == counts["tokens"]
        told = objective(**batch, counts=counts)
        assert torch.equal(told.terms["tokens"][0], loss.terms["tokens"][0])
        assert type(told.terms["tokens"][1]) is int, "a tensor would be waited for"


def test_a_batch_without_labels_has_no_loss_and_zero_gradients():
    objective = Objective(build("llama"), "auto")
    loss, count, gradients = loss_and_gradients(objective, collate.padded([], lambda i: examples()[i], 0))
    assert (loss, count) == (0.0, 0)
    assert not any(g.any() or g.isnan().any() for g in gradients.values())


# who cannot be fused


def settled(model, tolerance: float = 1e-4) -> Objective:
    objective = Objective(model.eval(), "auto")
    objective.settle(padded_batch(), tolerance)
    return objective


@pytest.mark.parametrize("family", FAMILIES)
def test_settle_accepts_a_head_that_is_what_it_seems(family):
    objective = settled(build(family))
    assert objective.implementation == "fused" and "agrees" in objective.reason


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "config"),
    [("bert", BERT), ("hyperclovax", LLAMA | {"logits_scaling": 0.5, "initializer_range": 0.02})],
)
def test_settle_finds_a_head_with_more_to_it(family, config, dtype):
    """Bert has a layer before its head, HyperClovaX multiplies where Granite divides.

    With untrained weights both have nearly the right loss (log of the vocabulary): only the logits give them away.
    """
    objective = settled(build(family, dtype=dtype, **config), 1e-4 if dtype == torch.float32 else 2e-2)
    assert objective.implementation == "torch" and objective.reason.startswith("fallback")
    assert objective(**padded_batch()).terms["tokens"][0].isfinite()


def test_settle_refuses_where_fused_was_asked_for():
    objective = Objective(build("bert", **BERT).eval(), "fused")
    with pytest.raises(RecipeError, match="fused is wrong for this model: .*loss.implementation=torch"):
        objective.settle(padded_batch(), 1e-4)


@pytest.mark.parametrize(("factor", "expected"), [(1, "fused"), (2, "torch")])
def test_settle_needs_no_label_at_the_beginning(factor, expected):
    """A first row that begins with a long prompt must neither hide a wrong head nor condemn a right one by 0 / 0."""
    long = [(np.arange(400) % VOCABULARY, np.arange(400) >= 390)]
    model = build("gpt2", n_positions=512)
    model.lm_head.register_forward_hook(lambda module, args, logits: logits * factor)
    objective = Objective(model.eval(), "auto")
    objective.settle(padded_batch(long), 1e-4)
    assert objective.implementation == expected


# packed against padded


@pytest.mark.parametrize("implementation", ["fused", "torch"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", PACKABLE)
def test_packed_equals_padded(family, attention, implementation):
    objective = Objective(build(family, attention), implementation)
    packed, padded = (loss_and_gradients(objective, batch) for batch in (packed_batch(), padded_batch()))
    assert packed[1] > 10
    assert_same(packed, padded, tolerance=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "family", [f for f in PACKABLE if f != "qwen3_moe"]
)  # experts sum in an order that neighbours change
def test_neighbours_in_a_packed_row_are_bit_equal(family, attention):
    objective = Objective(build(family, attention).eval(), "auto")
    batch = packed_batch()
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    before = objective.logits(**inputs)
    inputs["input_ids"] = inputs["input_ids"].clone()
    inputs["input_ids"][0, 6:15] = (inputs["input_ids"][0, 6:15] + 11) % VOCABULARY  # the third of four examples
    after = objective.logits(**inputs)
    assert torch.equal(before[0, :6], after[0, :6]) and torch.equal(before[0, 15:], after[0, 15:])
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[0, 6:15], after[0, 6:15])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", PACKABLE)
def test_check_packing_accepts(family, dtype):
    model = lora(build(family, "sdpa", dtype)).train()
    check_packing(model, torch.device("cpu"))
    assert model.training and all(p.grad is None for p in model.parameters())
    assert not model.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("opt", OPT),
        ("falcon", {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}),
        ("qwen3_next", LLAMA),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_check_packing_refuses_what_takes_positions_but_does_not_part_by_them(family, config, dtype):
    with pytest.raises(RecipeError, match="lets packed examples see each other.*data.packing=false"):
        check_packing(build(family, dtype=dtype, **config), torch.device("cpu"))


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("bloom", {"vocab_size": 97, "hidden_size": 32, "n_layer": 1, "n_head": 4}),
        ("mpt", {"vocab_size": 97, "d_model": 32, "n_layers": 1, "n_heads": 4, "max_seq_len": 64}),
        ("mamba", {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 1, "state_size": 4}),
    ],
)
def test_check_packing_refuses_what_takes_no_positions(family, config):
    with pytest.raises(RecipeError, match="takes no position_ids"):
        check_packing(build(family, **config), torch.device("cpu"))
