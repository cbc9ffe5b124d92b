"""The language-model loss as a module: it stands inside whatever shards or wraps the model, so the head's weight is whole here."""

from typing import Any

import torch
from torch import Tensor, nn

from launcher import losses
from launcher.errors import RecipeError
from launcher.losses import IGNORED, Loss

PROBE_LENGTH = 256  # tokens whose logits `settle` can afford to hold


class Objective(nn.Module):
    """A causal model and its loss. `implementation` says which loss runs, `reason` why."""

    def __init__(self, model: Any, implementation: str):
        super().__init__()
        self.model = model
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        head, self.reason = losses.resolve_head(base)
        if head is None and implementation == "fused":
            raise RecipeError(f"loss.implementation fused cannot be used: {self.reason}", fix="use auto or torch")
        if implementation == "torch":
            head, self.reason = None, "asked for by loss.implementation"
        self._parts = (base.base_model, head)  # in a tuple, so that the decoder is not registered a second time
        self.implementation = "fused" if head else "torch"

    def counts(self, batch: dict[str, Tensor]) -> dict[str, int]:
        """Items of each loss term in a batch: known before the forward pass, so that it can be normalised globally."""
        return {"tokens": int((batch["labels"] != IGNORED).sum())}

    def forward(self, input_ids: Tensor, labels: Tensor, **inputs: Tensor) -> Loss:
        """input_ids, labels (shifted, -100 ignored): (batch, length); `inputs`: attention_mask or position_ids."""
        decoder, head = self._parts
        if head is not None:
            hidden = decoder(input_ids=input_ids, use_cache=False, **inputs).last_hidden_state
            total, hits = losses.from_hidden(hidden, head, labels)
        else:
            total, hits = losses.from_logits(self.logits(input_ids, **inputs), labels)
        count = (labels != IGNORED).sum()
        return Loss(terms={"tokens": (total, count, 1.0)}, metrics={"token_accuracy": (hits, count)})

    def logits(self, input_ids: Tensor, **inputs: Tensor) -> Tensor:
        """Shape (batch, length, vocabulary)."""
        return self.model(input_ids=input_ids, use_cache=False, **inputs).logits

    @torch.no_grad()
    def settle(self, batch: dict[str, Tensor], tolerance: float, may_fall_back: bool) -> None:
        """Compare the fused with the plain loss on a real batch; a mismatch falls back, or is an error where that is not allowed.

        The logits are compared too: those of an untrained model are so flat that a wrong scale hardly moves the loss.
        """
        if self.implementation == "torch":
            return
        inputs = {name: tensor[:, :PROBE_LENGTH] for name, tensor in batch.items() if name != "labels"}
        labels = inputs["input_ids"].roll(-1, 1)  # of its own, since a prompt may be longer than the probe
        decoder, head = self._parts
        assert head is not None
        own_logits = self.logits(**inputs)
        logits = losses.logits_of(decoder(use_cache=False, **inputs).last_hidden_state, head)
        fused, plain = self(labels=labels, **inputs).terms["tokens"][0], losses.from_logits(own_logits, labels)[0]
        off_logits = float((logits - own_logits).norm() / own_logits.norm())
        off_loss = float((fused - plain).abs() / plain.abs())
        if off_logits <= tolerance and off_loss <= tolerance:
            self.reason += f"; agrees with the plain loss on the first row to {off_loss:.0e}"
            return
        finding = (
            f"its logits are {off_logits:.0e} away from the model's own, its loss {off_loss:.0e} "
            f"({float(fused):.6g}, plainly {float(plain):.6g})"
        )
        if not may_fall_back:
            raise RecipeError(
                f"loss.implementation fused is wrong for this model: {finding}", fix="use loss.implementation=torch"
            )
        self._parts, self.implementation = (decoder, None), "torch"
        self.reason = f"fallback, because the fused loss is wrong for this model: {finding}"
