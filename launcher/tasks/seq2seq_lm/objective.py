"""The loss of a target given its source: cross-entropy of each of its tokens, from those before."""

from typing import Any

import torch
from torch import Tensor, nn

from launcher import chance, losses
from launcher.data.context import Context
from launcher.losses import IGNORED, Loss
from launcher.objectives import twice
from launcher.task import LossPlan
from launcher.tasks.seq2seq_lm import Config


def plan_loss(model: Any, options: Config, method: str) -> LossPlan:
    name = f"cross-entropy{twice.tokens_in_words(model, options)}"
    return LossPlan(name, "of the target's tokens", passes=twice.passes(options.r_drop_alpha))


def build(model: Any, options: Config, context: Context) -> "Objective":
    chance.switch_off_layer_drop(model)
    return Objective(model, options)


class Objective(nn.Module):
    """An encoder with a decoder, and its loss. Labels: (rows, target tokens) int64, -100 is none."""

    def __init__(self, model: Any, options: Config):
        super().__init__()
        self.model = model
        self.label_smoothing, self.r_drop_alpha = options.label_smoothing, options.r_drop_alpha

    def counts(self, batch: dict[str, Tensor]) -> dict[str, float]:
        tokens = twice.count(batch["labels"] != IGNORED)
        return {"tokens": tokens} | ({"r_drop": tokens} if self._goes_twice else {})

    def forward(self, labels: Tensor, counts: dict[str, float] | None = None, **inputs: Tensor) -> Loss:
        """The smoothed loss is not the one whose exponential is the perplexity, so evaluation takes the plain one."""
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        inputs |= {"decoder_input_ids": decoder_inputs(base, labels)}
        logits = self.model(**(twice.doubled(inputs) if self._goes_twice else inputs), use_cache=False).logits
        count = (counts or self.counts({"labels": labels}))["tokens"]
        if self._goes_twice:
            total, apart, hits = twice.of_tokens(logits, labels, self.r_drop_alpha, self.label_smoothing)
            return Loss({"tokens": (total, count, 1.0), "r_drop": apart}, {"token_accuracy": (hits, count)})
        total, hits = losses.from_logits(logits, labels, self.label_smoothing if self.training else 0.0)
        return Loss({"tokens": (total, count, 1.0)}, {"token_accuracy": (hits, count)})

    @property
    def _goes_twice(self) -> bool:
        return self.training and self.r_drop_alpha > 0


def decoder_inputs(model: Any, labels: Tensor) -> Tensor:
    """What the decoder sees: the targets moved to the right, as the model itself does with labels. (rows, target tokens)"""
    config = model.config.get_text_config(decoder=True)
    pad = config.pad_token_id
    any_token = int(pad == 0)  # for a row without a target: some models look for its last token
    labels = torch.where((labels == IGNORED).all(1, keepdim=True), any_token, labels)
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        found: Tensor = model.prepare_decoder_input_ids_from_labels(labels)
        return found
    start = torch.full_like(labels[:, :1], model.config.decoder_start_token_id)
    moved = torch.cat([start, labels[:, :-1]], 1)
    return moved.masked_fill(moved == IGNORED, pad)
