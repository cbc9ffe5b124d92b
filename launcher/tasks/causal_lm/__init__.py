"""Causal language modelling: conversations, prompts with completions, plain text.

This file is what a recipe needs to be checked, so it does not import torch. Beside it: `rows` (examples to rows to batches),
`objective` (the model with its loss), `metrics` and `answers` (generated text).
"""

from typing import Literal

from launcher.schema import Section

AUTO_CLASS = "AutoModelForCausalLM"
FORMATS = ("messages", "prompt_completion", "text")
METRICS = ("loss", "perplexity", "token_accuracy", "token_f1")
GENERATED_METRICS = ("token_f1",)


class Config(Section):
    implementation: Literal["auto", "fused", "torch"] = "auto"
    """`fused` never holds all logits; `torch` is plain; `auto` takes fused where the head allows it and the two agree."""
