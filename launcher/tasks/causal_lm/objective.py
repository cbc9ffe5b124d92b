"""The language-model loss as a module: it stands inside whatever shards or wraps the model, so the head's weight is whole here."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from launcher import heads, log, losses, prompts
from launcher.data.context import Context
from launcher.errors import RecipeError
from launcher.losses import IGNORED, Loss
from launcher.objectives import twice
from launcher.task import LossChoice, LossPlan
from launcher.tasks.causal_lm import Config, agreement

PROBE_LENGTH = 256  # tokens whose logits `settle` can afford to hold
OF_R_DROP = "R-Drop compares all probabilities of both passes"
BEHIND_A_PROMPT = "PEFT puts the prompt before the inputs"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}  # fp32 and tf32 are fp32


def plan_loss(model: Any, options: Config, method: str) -> LossPlan:
    """Which loss will run on a model (below PEFT's wrapper) and why. Raises RecipeError where fused is asked for and cannot be."""
    more, passes = twice.tokens_in_words(model, options), twice.passes(options.r_drop_alpha)
    head, reason = _usable(model, method in prompts.METHODS, options.r_drop_alpha, options.implementation)
    reason = "loss.implementation" if options.implementation != "auto" else f"auto: {reason}"
    if head is None or options.implementation == "torch":
        return LossPlan(f"torch{more}", reason, passes=passes)
    return LossPlan(f"fused{more}", reason, partial(_way, head, method, options.label_smoothing > 0))


def _usable(model: Any, is_behind_a_prompt: bool, r_drop_alpha: float, asked: str) -> tuple[heads.Head | None, str]:
    """The head that the fused loss can go through, or None, and why. RecipeError where fused is asked for and there is none."""
    if r_drop_alpha:
        head, reason = None, OF_R_DROP
    elif is_behind_a_prompt:
        head, reason = None, BEHIND_A_PROMPT
    else:
        head, reason = heads.resolve(model)
    if asked == "fused" and head is None:
        raise RecipeError(f"loss.implementation fused cannot be used: {reason}", fix="use auto or torch")
    return head, reason


def _way(
    head: heads.Head, method: str, smooths: bool, num_rows: int, precision: str, model_dtype: str, device: str
) -> LossChoice:
    """How the fused loss goes about it. What an adapter trains is fp32, and so is a head without autocast beside it."""
    trains_head_in_fp32 = head.weight.requires_grad and method != "full"
    kept = torch.float32 if trains_head_in_fp32 else DTYPES.get(model_dtype, torch.float32)
    return losses.way(head, num_rows, DTYPES.get(precision, kept), kept, device, smooths)


def build(model: Any, options: Config, context: Context) -> "Objective":
    return Objective(model, options.implementation, options.label_smoothing, options.r_drop_alpha)


class Objective(nn.Module):
    """A causal model and its loss. `implementation` says which loss runs, `reason` why."""

    def __init__(self, model: Any, implementation: str, label_smoothing: float = 0.0, r_drop_alpha: float = 0.0):
        super().__init__()
        self.model, self.label_smoothing, self.r_drop_alpha = model, label_smoothing, r_drop_alpha
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._unregistered = (base, base.base_model)  # in a tuple, so that the decoder is not registered a second time
        self._asked, self.implementation = implementation, "torch"
        if implementation == "torch":
            self.reason = "asked for by loss.implementation"
            return
        head, self.reason = _usable(base, prompts.is_before(model), r_drop_alpha, implementation)
        self.implementation = "fused" if head else "torch"

    def counts(self, batch: dict[str, Tensor]) -> dict[str, int]:
        """Items of each loss term in a batch: known before the forward pass, so that it can be normalised globally."""
        tokens = int((batch["labels"] != IGNORED).sum())
        return {"tokens": tokens} | ({"r_drop": tokens} if self._goes_twice else {})

    def forward(
        self, input_ids: Tensor, labels: Tensor, counts: dict[str, int] | None = None, **inputs: Tensor
    ) -> Loss:
        """input_ids, labels (shifted, -100 ignored): (batch, length); `inputs`: attention_mask or position_ids.

        `counts` of this batch, taken on the CPU, save waiting for the device.
        """
        head, count = self._head(), counts["tokens"] if counts else None
        number = (labels != IGNORED).sum() if count is None else count
        smoothing = self.label_smoothing if self.training else 0.0  # else the loss has no perplexity
        if self._goes_twice:
            logits = self.logits(**twice.doubled({"input_ids": input_ids, **inputs}))
            total, apart, hits = twice.of_tokens(logits, labels, self.r_drop_alpha, smoothing)
            terms = {"tokens": (total, number, 1.0), "r_drop": apart}
            return Loss(terms, metrics={"token_accuracy": (hits, number)})
        if head is not None:
            total, hits = losses.from_hidden(self.hidden_states(input_ids, **inputs), head, labels, count, smoothing)
        else:
            total, hits = losses.from_logits(self.logits(input_ids, **inputs), labels, smoothing)
        return Loss(terms={"tokens": (total, number, 1.0)}, metrics={"token_accuracy": (hits, number)})

    @property
    def _goes_twice(self) -> bool:
        return self.training and self.r_drop_alpha > 0

    def logits(self, input_ids: Tensor, **inputs: Tensor) -> Tensor:
        """Shape (batch, length, vocabulary)."""
        logits: Tensor = self.model(input_ids=input_ids, use_cache=False, **inputs).logits
        return logits[:, -input_ids.shape[1] :]  # a learned prompt has logits, too

    def hidden_states(self, input_ids: Tensor, **inputs: Tensor) -> Tensor:
        """Of the last layer, as the head gets them: (batch, length, width)."""
        return self._unregistered[1](input_ids=input_ids, use_cache=False, **inputs).last_hidden_state

    def head_module(self) -> nn.Module:
        return self._unregistered[0].get_output_embeddings()

    def borrowed(self) -> list[nn.Parameter]:
        """Parameters that `forward` uses outside of the module that holds them."""
        head = self._head()
        return [tensor for tensor in head.tensors().values() if isinstance(tensor, nn.Parameter)] if head else []

    def settle(self, batch: dict[str, Tensor], tolerance: float) -> None:
        """Compare the fused loss and its gradients with those of the model's own head on a real batch, in eval mode.

        A mismatch falls back, or is an error where fused is asked for.
        """
        head = self._head()
        if head is None:
            return
        probe = {name: tensor[:, :PROBE_LENGTH] for name, tensor in batch.items() if name != "labels"}
        found = agreement.measure(self, head, probe)
        if found.within(max(tolerance, head.own_error)):
            self.reason += f"; agrees with the model's own head on the first row: {found}"
        else:
            self._fall_back(f"is wrong for this model: {found}")

    def _head(self) -> heads.Head | None:
        """The head as it is now, None for the plain loss. Adapters can be switched and merged behind our back."""
        if self.implementation == "torch":
            return None
        head, reason = heads.resolve(self._unregistered[0])
        if head is None:
            self._fall_back(f"cannot be used any more: {reason}")
            log.say(f"loss: {self.implementation} ({self.reason})")
        return head

    def _fall_back(self, finding: str) -> None:
        if self._asked != "auto":
            raise RecipeError(f"loss.implementation fused {finding}", fix="use loss.implementation=torch")
        self.implementation, self.reason = "torch", f"fallback, because the fused loss {finding}"
