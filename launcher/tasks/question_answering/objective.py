"""The loss of where an answer begins and ends, and the likeliest answer of a window."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from launcher.data.context import Context
from launcher.losses import IGNORED, Loss
from launcher.task import LossPlan


def plan_loss(model: Any, options: Any, method: str) -> LossPlan:
    return LossPlan("cross-entropy", "half for the first token of the answer, half for its last")


def build(model: Any, options: Any, context: Context) -> "Objective":
    return Objective(model, context.data.max_answer_length)


class Objective(nn.Module):
    """A model with start_logits and end_logits (rows, tokens), and their loss. Positions (rows,) int64, -100 is not known."""

    def __init__(self, model: Any, max_answer_length: int):
        super().__init__()
        self.model, self.max_answer_length = model, max_answer_length

    def counts(self, batch: dict[str, Tensor]) -> dict[str, float]:
        return {"windows": float((batch["start_positions"] != IGNORED).sum())}

    def forward(
        self,
        start_positions: Tensor,
        end_positions: Tensor,
        is_context: Tensor,
        null_position: Tensor,
        counts: dict[str, float] | None = None,
        **inputs: Tensor,
    ) -> Loss:
        said = self.model(**inputs)
        start, end = (_of_tokens(logits, inputs["attention_mask"]) for logits in (said.start_logits, said.end_logits))
        total = (_cross_entropy(start, start_positions) + _cross_entropy(end, end_positions)) / 2
        count = (counts or self.counts({"start_positions": start_positions}))["windows"]
        outputs = None if self.training else {"start_logits": start, "end_logits": end}
        return Loss({"windows": (total, count, 1.0)}, {}, outputs)

    def predictions(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> list[np.ndarray]:
        """See `likeliest`; one of (5,) for each row."""
        start, end = outputs["start_logits"].double(), outputs["end_logits"].double()
        is_context, null = batch["is_context"].to(start.device).bool(), batch["null_position"].to(start.device)
        return list(likeliest(start, end, is_context, null, self.max_answer_length).cpu().numpy())


def likeliest(start: Tensor, end: Tensor, is_context: Tensor, null: Tensor, max_length: int) -> Tensor:
    """(rows, 5) fp64 from logits (rows, tokens): first and last token of the best answer, its score, that of no answer, and
    the logarithm of the sum of all pairs' exp(score): exp(score - sum) is a probability within the window.

    The score of an answer is its start's logit and its end's, that of none those of the token `null` (BERT,
    arXiv:1810.04805, section 4.3). An answer has at most `max_length` tokens of the context; without any, its score is
    -infinity. Of equal ones it is the first, and the shortest of those.
    """
    tokens = start.shape[1]
    length = min(max_length, tokens)
    starts, ends = (logits.masked_fill(~is_context, -torch.inf) for logits in (start, end))
    pairs = starts[:, :, None] + functional.pad(ends, (0, length - 1), value=-torch.inf).unfold(1, length, 1)
    best, place = pairs.flatten(1).max(1)
    first = place // length
    none = (start + end).gather(1, null[:, None])[:, 0]
    total = start.logsumexp(1) + end.logsumexp(1)
    return torch.stack([first.double(), (first + place % length).double(), best, none, total], 1)


def _of_tokens(logits: Tensor, attention_mask: Tensor) -> Tensor:
    """In at least fp32, and -infinity for padding: a loss must not depend on how far a row was padded."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).masked_fill(attention_mask == 0, -torch.inf)


def _cross_entropy(logits: Tensor, positions: Tensor) -> Tensor:
    return functional.cross_entropy(logits, positions, ignore_index=IGNORED, reduction="sum")
