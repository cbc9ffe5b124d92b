"""The language-model loss inside real architectures: fused against plain, packed against padded, and who must be refused."""

import copy
import warnings

import numpy as np
import peft
import pytest
import torch
import transformers

from launcher.data import collate
from launcher.errors import RecipeError
from launcher.model import check_packing
from launcher.tasks.causal_lm.objective import Objective

VOCABULARY = 97
LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "initializer_range": 0.3,  # large, so that a wrong logit moves the loss
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
OPT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "word_embed_proj_dim": 16,  # the head sees a projection of the last layer
    "init_std": 0.3,
}
DROPOUT_OFF = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "is_decoder": True,
}
FAMILIES = {
    "llama": LLAMA,
    "qwen3": LLAMA,
    "mistral": LLAMA | {"sliding_window": 4},
    "gemma2": LLAMA | {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8, "sliding_window": 4},
    "gemma3_text": LLAMA | {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8, "sliding_window": 4},
    "cohere": LLAMA | {"logit_scale": 0.25},
    "granite": LLAMA | {"logits_scaling": 4.0},
    "olmo2": LLAMA,
    "phi3": LLAMA,
    "gpt_neox": LLAMA,
    "phi": LLAMA,  # a head with a bias
    "qwen3_moe": LLAMA | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gpt2": GPT2 | DROPOUT_OFF,
    "opt": OPT | {"dropout": 0.0},
}
PACKABLE = ["llama", "gpt2", "qwen3", "mistral", "gemma3_text", "qwen3_moe"]
HAS_NO_SDPA = ("gemma2",)


def build(family: str, attention: str = "eager", dtype: torch.dtype = torch.float32, **changes):
    torch.manual_seed(0)
    values = FAMILIES.get(family, {}) | changes
    config = transformers.AutoConfig.for_model(family, **values)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
    with torch.no_grad():  # biases start at zero and norms at one, which would hide that they are left out
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def examples(lengths=(5, 1, 9, 7, 3, 6), seed: int = 0):
    """Ids, and which of them are trained on: a prompt of a third that is not."""
    draw = np.random.default_rng(seed)
    return [(draw.integers(1, VOCABULARY, size=n), np.arange(n) >= n // 3) for n in lengths]


def padded_batch(rows=None):
    rows = rows or examples()
    return collate.padded([[i] for i in range(len(rows))], lambda i: rows[i], 0)


def packed_batch(rows=None):
    """Two rows of different fill, so that there is padding behind the second."""
    rows = rows or examples()
    return collate.packed([[0, 1, 2, 3], [4, 5]], lambda i: rows[i], 0)


def loss_and_gradients(objective: Objective, batch):
    objective.zero_grad()
    total, count, weight = objective(**batch).terms["tokens"]
    total.backward()
    assert weight == 1.0
    gradients = {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}
    return float(total.detach()), int(count), gradients


def assert_same(ours, theirs, tolerance: float = 2e-5):
    assert ours[1] == theirs[1]
    assert ours[0] == pytest.approx(theirs[0], rel=tolerance)
    assert ours[2].keys() == theirs[2].keys() and ours[2]
    largest = max(float(g.abs().max()) for g in theirs[2].values())
    for name, gradient in theirs[2].items():
        error = float((ours[2][name] - gradient).abs().max())
        assert error <= tolerance * max(float(gradient.abs().max()), 1e-2 * largest), name


def lora(model, **options):
    torch.manual_seed(1)
    targets = options.pop("target_modules", "all-linear")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(
            model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets, **options)
        )
    with torch.no_grad():  # B starts at zero, and then A has no gradient
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return adapted


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


@pytest.mark.parametrize("options", [{"target_modules": ["q_proj", "lm_head"]}, {"modules_to_save": ["lm_head"]}])
def test_an_adapted_head_is_trained_by_the_plain_loss(options):
    """The fused loss would read the frozen weight below the adapter, and the adapter would learn nothing."""
    objective = Objective(lora(build("llama"), **options), "auto")
    assert objective.implementation == "torch"
    assert "not a plain linear layer" in objective.reason
    gradients = loss_and_gradients(objective, padded_batch())[2]
    assert any("lm_head" in name and gradient.any() for name, gradient in gradients.items())
    with pytest.raises(RecipeError, match="fused cannot be used: the output head is a "):
        Objective(objective.model, "fused")


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


def test_counts_are_known_before_the_forward_pass():
    objective = Objective(build("llama"), "auto")
    for batch in (padded_batch(), packed_batch(), collate.padded([], lambda i: examples()[i], 0)):
        loss = objective(**batch)
        assert objective.counts(batch) == {"tokens": int(loss.terms["tokens"][1])}
        assert int(loss.metrics["token_accuracy"][1]) == objective.counts(batch)["tokens"]


def test_a_batch_without_labels_has_no_loss_and_zero_gradients():
    objective = Objective(build("llama"), "auto")
    loss, count, gradients = loss_and_gradients(objective, collate.padded([], lambda i: examples()[i], 0))
    assert (loss, count) == (0.0, 0)
    assert not any(g.any() or g.isnan().any() for g in gradients.values())


# who cannot be fused


def settled(model, tolerance: float = 1e-4) -> Objective:
    objective = Objective(model.eval(), "auto")
    objective.settle(padded_batch(), tolerance, may_fall_back=True)
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
        objective.settle(padded_batch(), 1e-4, may_fall_back=False)


@pytest.mark.parametrize(("factor", "expected"), [(1, "fused"), (2, "torch")])
def test_settle_needs_no_label_at_the_beginning(factor, expected):
    """A first row that begins with a long prompt must neither hide a wrong head nor condemn a right one by 0 / 0."""
    long = [(np.arange(400) % VOCABULARY, np.arange(400) >= 390)]
    model = build("gpt2", n_positions=512)
    model.lm_head.register_forward_hook(lambda module, args, logits: logits * factor)
    objective = Objective(model.eval(), "auto")
    objective.settle(padded_batch(long), 1e-4, may_fall_back=True)
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


# memory for time


@pytest.mark.parametrize("with_lora", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_gradient_checkpointing_changes_no_gradient(family, with_lora):
    results = []
    for checkpointing in (False, True):
        model = build(family, "sdpa")
        if checkpointing:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)(
                {"use_reentrant": False}
            )
            model.enable_input_require_grads()
        objective = Objective(lora(model) if with_lora else model, "fused").train()
        results.append(loss_and_gradients(objective, packed_batch()))
    assert_same(results[1], results[0], tolerance=1e-6)
