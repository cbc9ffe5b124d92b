"""The language-model loss as a module: it stands inside whatever shards or wraps the model, so the head's weight is whole here."""

from typing import Any

import torch
from torch import Tensor, nn

from launcher import losses
from launcher.errors import RecipeError
from launcher.losses import IGNORED, Loss


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
        """Compare the fused with the plain loss on a real batch; a mismatch falls back, or is an error where that is not allowed."""
        if self.implementation == "torch":
            return
        labels = batch["labels"]
        fused = float(self(**batch).terms["tokens"][0])
        plain = float(losses.from_logits(self.logits(**{k: v for k, v in batch.items() if k != "labels"}), labels)[0])
        if abs(fused - plain) <= tolerance * abs(plain):
            self.reason = f"{self.reason}; agrees with the plain loss on the first rows to {abs(fused - plain) / (abs(plain) or 1):.0e}"
            return
        finding = f"the fused loss is {fused:.6g} where the model's own logits give {plain:.6g}"
        if not may_fall_back:
            raise RecipeError(
                f"loss.implementation fused is wrong for this model: {finding}", fix="use loss.implementation=torch"
            )
        self._parts, self.implementation, self.reason = (self._parts[0], None), "torch", f"fallback: {finding}"
