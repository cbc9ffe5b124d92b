"""Causal language modelling: conversations, prompts with completions, plain text.

This file is what a recipe needs to be checked, so it does not import torch. Beside it: `rows` (examples to rows to batches),
`objective` (the model with its loss), `metrics` and `answers` (generated text).
"""

from typing import Literal

from launcher.objectives.options import Tokens
from launcher.task import Traits

TRAITS = Traits(
    auto_class="AutoModelForCausalLM",
    pipeline_tag="text-generation",
    formats=("messages", "prompt_completion", "text"),
    metrics=("loss", "perplexity", "token_accuracy", "token_f1"),
    default_metrics=("loss", "perplexity", "token_accuracy"),
    generated_metrics=("token_f1",),
    data_keys=("max_length", "on_truncate", "loss_on", "packing"),
    on_truncate="drop",
    peft_task_type="CAUSAL_LM",
)


class Config(Tokens):
    implementation: Literal["auto", "fused", "torch"] = "auto"
    """`fused` never holds all logits; `torch` is plain; `auto` takes fused where the head allows it and the two agree."""
