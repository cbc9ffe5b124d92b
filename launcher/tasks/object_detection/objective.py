"""The loss of the boxes in a picture, and the boxes that are found."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from launcher import log
from launcher.data.context import Context
from launcher.losses import IGNORED, Loss
from launcher.objectives import set_prediction
from launcher.objectives.set_prediction import VARIFOCAL, Criterion
from launcher.task import LossPlan
from launcher.tasks.object_detection import Config

Terms = dict[str, tuple[Tensor, Tensor | float, float]]
MOST_FOUND = 100  # of a picture, as COCO counts them


class Found(NamedTuple):
    """Boxes of a picture, the surest first. boxes: (n, 4) x1, y1, x2, y2 in its pixels; scores, labels: (n,)."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def plan_loss(model: Any, options: Config, method: str) -> LossPlan:
    of = set_prediction.criterion(model, options)
    kind = f"{of.kind} (no object: {of.no_object:g})" if of.kind == set_prediction.SOFTMAX else of.kind
    name = f"{of.classes:g} x {kind} + {of.boxes:g} x L1 + {of.giou:g} x (1 - GIoU)"
    return LossPlan(name, f"as {type(model).__name__} learns{', after every layer' if len(of.groups) > 1 else ''}")


def build(model: Any, options: Config, context: Context) -> "Objective":
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return Objective(model, base, set_prediction.criterion(base, options), context.processor)


class Objective(nn.Module):
    """A model with logits (rows, queries, classes) and pred_boxes (rows, queries, 4), and its loss; see `rows.collate`.

    `base`: the model without a wrapper. It hands what its layers say to its loss function alone, so that one is replaced.
    """

    def __init__(self, model: Any, base: Any, criterion: Criterion, processor: Any):
        super().__init__()
        self.model, self.criterion, self.processor = model, criterion, processor
        self._has_said = False
        base.loss_function = self._sums

    def counts(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Boxes; for the classes, where there is one for no object, the weights of all queries."""
        known = batch["sizes"][:, 0] > 0
        return set_prediction.counts(self.criterion, batch["class_labels"], known, self.training)

    def forward(
        self,
        class_labels: Tensor,
        boxes: Tensor,
        sizes: Tensor,
        counts: dict[str, float] | None = None,
        **inputs: Tensor,
    ) -> Loss:
        count = counts or self.counts({"class_labels": class_labels, "sizes": sizes})
        targets = [
            {"class_labels": labels[labels != IGNORED], "boxes": of_row[labels != IGNORED], "known": size[0] > 0}
            for labels, of_row, size in zip(class_labels, boxes, sizes, strict=True)
        ]
        self._say_what_is_left_out(targets)
        said = self.model(**inputs, labels=targets)
        terms: Terms = {name: (value, count[name], 1.0) for name, value in said.loss_dict.items()}
        outputs = {"logits": said.logits.float(), "pred_boxes": said.pred_boxes.float()}
        return Loss(terms, {}, None if self.training else outputs)

    def predictions(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> list[Found]:
        """The surest 100 of each picture."""
        every = self.processor.post_process_object_detection(
            SimpleNamespace(**outputs), threshold=0.0, target_sizes=batch["sizes"]
        )
        return [_surest(of_picture) for of_picture in every]

    def _sums(
        self,
        logits: Tensor,
        labels: Any,
        device: Any,
        pred_boxes: Tensor,
        config: Any,
        outputs_class: Any = None,
        outputs_coord: Any = None,
        enc_topk_logits: Any = None,
        enc_topk_bboxes: Any = None,
        denoising_meta_values: Any = None,
        **others: Any,
    ) -> tuple[Tensor, dict[str, Tensor], None]:
        """As transformers calls a loss function of detectors: a loss, its parts and what layers before the last said."""
        decoder: list[Any] = []
        if config.auxiliary_loss:  # RT-DETR has the rows before the layers
            rows_first = self.criterion.kind == VARIFOCAL
            said = [tensor.transpose(0, 1) if rows_first else tensor for tensor in (outputs_class, outputs_coord)]
            decoder = list(zip(*said, strict=True))
        encoder = [] if enc_topk_logits is None else [(enc_topk_logits, enc_topk_bboxes)]
        noisy = denoising_meta_values
        layers = set_prediction.in_groups((logits, pred_boxes), decoder, encoder, noisy)
        known = torch.stack([target["known"] for target in labels])
        return logits.new_zeros(()), set_prediction.sums(self.criterion, labels, known, layers, noisy), None

    def _say_what_is_left_out(self, targets: Any) -> None:
        most = max(len(target["boxes"]) for target in targets)
        if most > self.criterion.queries and not self._has_said:
            finds = f"and the model can find {self.criterion.queries}: others of it are not learned"
            log.say(f"note: a picture has {most} boxes, {finds}")
            self._has_said = True


def _surest(of_picture: dict[str, Tensor]) -> Found:
    arrays = {name: tensor.cpu().numpy() for name, tensor in of_picture.items()}
    order = np.argsort(-arrays["scores"], kind="stable")[:MOST_FOUND]
    return Found(arrays["boxes"][order], arrays["scores"][order], arrays["labels"][order])
