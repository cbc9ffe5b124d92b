"""The loss of a set of boxes (Carion et al., arXiv:2005.12872) as sums: each object is learned by the query that fits it best.

The matchers and the geometry of boxes are transformers'; its losses divide by the boxes of a batch, and so are not used.

| models | learned of the classes |
| --- | --- |
| DETR, YOLOS, Table Transformer | softmax with a class for no object, which weighs less |
| Conditional, Deformable, DAB-DETR | focal loss (Lin et al., arXiv:1708.02002) |
| RT-DETR | varifocal loss (Zhang et al., arXiv:2008.13367), and queries made of noisy objects (Zhang et al., arXiv:2203.03605) |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers.image_transforms import center_to_corners_format
from transformers.loss import loss_for_object_detection, loss_rt_detr
from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher

from launcher.errors import NonFiniteError, RecipeError
from launcher.losses import IGNORED

SOFTMAX, FOCAL, VARIFOCAL = "cross-entropy", "focal loss", "varifocal loss"
KINDS = {"yolos": SOFTMAX, "detr": SOFTMAX, "table-transformer": SOFTMAX}
KINDS |= {"conditional_detr": FOCAL, "deformable_detr": FOCAL, "dab-detr": FOCAL}
KINDS |= {"rt_detr": VARIFOCAL, "rt_detr_v2": VARIFOCAL}
LAST, AUXILIARY, DENOISING = "", "auxiliary ", "denoising "
Targets = Sequence[Mapping[str, Tensor]]  # a row: class_labels (n,), boxes (n, 4) centre x, centre y, width, height


class Layer(NamedTuple):
    """What one layer of a model says. logits: (rows, queries, classes), boxes: (rows, queries, 4)."""

    logits: Tensor
    boxes: Tensor


class Matched(NamedTuple):
    """Queries with an object each, all (n,) but its box, (n, 4)."""

    rows: Tensor
    queries: Tensor
    classes: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Criterion:
    """How a model learns. `no_object`: weight of a query without an object; the others: weights of the terms."""

    kind: str
    config: Any
    no_object: float
    classes: float
    boxes: float
    giou: float

    @property
    def matcher(self) -> Any:
        """transformers' own."""
        if self.kind == VARIFOCAL:
            return loss_rt_detr.RTDetrHungarianMatcher(self.config)  # type: ignore[no-untyped-call]
        costs = self.config.class_cost, self.config.bbox_cost, self.config.giou_cost
        matcher = DeformableDetrHungarianMatcher if self.kind == FOCAL else loss_for_object_detection.HungarianMatcher
        return matcher(*costs)

    @property
    def groups(self) -> list[str]:
        """Of layers, beside the last: those before it, and in RT-DETR those that tell objects from noisy ones."""
        if not self.config.auxiliary_loss:
            return [LAST]
        noisy = self.kind == VARIFOCAL and self.config.num_denoising > 0
        return [LAST, AUXILIARY, *([DENOISING] if noisy else [])]

    @property
    def queries(self) -> int:
        """The most objects of a picture that can be found."""
        name = "num_detection_tokens" if self.config.model_type == "yolos" else "num_queries"
        return int(getattr(self.config, name))


def criterion(model: Any, options: Any) -> Criterion:
    """Of a model without a wrapper, and options of the recipe. RecipeError for a model whose loss is another."""
    config, name = model.config, type(model).__name__
    kind = KINDS.get(config.model_type)
    if kind is None:
        raise RecipeError(
            f"the loss of {name} is none of those that object_detection can share out over micro-batches and ranks",
            fix=f"use a model of type {', '.join(KINDS)}",
        )
    if config.model_type == "yolos" and config.auxiliary_loss:
        raise RecipeError(
            "transformers computes no auxiliary_loss for YOLOS", fix="set auxiliary_loss to false in its configuration"
        )
    if kind != SOFTMAX and options.eos_coefficient is not None:
        raise RecipeError(f"loss.eos_coefficient has no effect: {name} has no class for no object", fix="take it out")
    names = ["weight_loss_vfl", "weight_loss_bbox", "weight_loss_giou"]
    own = [getattr(config, key) for key in names] if kind == VARIFOCAL else [1.0, *_coefficients(config)]
    box, giou = options.bbox_loss_coefficient, options.giou_loss_coefficient
    no_object = getattr(config, "eos_coefficient", 0.0) if options.eos_coefficient is None else options.eos_coefficient
    weights = own[0], own[1] if box is None else box, own[2] if giou is None else giou
    return Criterion(kind, config, float(no_object), *map(float, weights))


def _coefficients(config: Any) -> list[float]:
    return [config.bbox_loss_coefficient, config.giou_loss_coefficient]


def counts(of: Criterion, class_labels: Tensor, known: Tensor, training: bool) -> dict[str, float]:
    """What each term of `sums` is divided by. class_labels: (rows, most), known: (rows,) rows that are no padding."""
    numbers = (class_labels != IGNORED).sum(1)
    boxes = float(numbers.sum())
    classes = boxes
    if of.kind == SOFTMAX:
        found = float(numbers.clamp(max=of.queries).sum())
        classes = found + of.no_object * (float(known.sum()) * of.queries - found)
    terms: dict[str, float] = {}
    for group in of.groups:
        times = noisy_groups(of, int(numbers.max())) * training if group == DENOISING else 1
        terms |= {f"{group}classes": classes * times, f"{group}boxes": boxes * times, f"{group}giou": boxes * times}
    return terms


def noisy_groups(of: Criterion, most: int) -> int:
    """How often RT-DETR repeats the objects of a batch, of which one picture has `most`."""
    return max(1, of.config.num_denoising // most) if most else 0


def in_groups(last: Any, decoder: Sequence[Any], encoder: Sequence[Any], noisy: Any) -> dict[str, list[Layer]]:
    """Layers (logits, boxes) by what is learned of them, in fp32. decoder: all of its layers, where those before the last learn
    as well. encoder: its choice of queries, without noisy ones; elsewhere these come first."""
    split = noisy and noisy["dn_num_split"]
    groups = {LAST: [_part(last, split, 1)]}
    if decoder:
        before = [_part(layer, split, 1) for layer in decoder[:-1]]
        groups[AUXILIARY] = before + [_part(layer, None, 1) for layer in encoder]
    if decoder and noisy is not None:
        groups[DENOISING] = [_part(layer, split, 0) for layer in decoder]
    return groups


def _part(layer: Any, split: Sequence[int] | None, place: int) -> Layer:
    """The noisy queries of a layer (0), or the others (1)."""
    found = [tensor if split is None else tensor.split(split, 1)[place] for tensor in layer]
    return Layer(*(tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in found))


def sums(of: Criterion, targets: Targets, known: Tensor, layers: Mapping[str, Sequence[Layer]], noisy: Any) -> Any:
    """Term -> its weighted sum over the batch, for `counts`. `noisy`: RT-DETR's own account of its noisy queries."""
    total: dict[str, Any] = {f"{group}{term}": 0.0 for group in of.groups for term in ("classes", "boxes", "giou")}
    for group, members in layers.items():
        for layer in members:
            matched = denoised(noisy, targets) if group == DENOISING else match(of, layer, targets)
            for term, value in _of_layer(of, layer, matched, known).items():
                total[f"{group}{term}"] = total[f"{group}{term}"] + value
    zero = next(iter(layers.values()))[0].logits.sum() * 0
    return {name: value + zero for name, value in total.items()}


def _of_layer(of: Criterion, layer: Layer, matched: Matched, known: Tensor) -> dict[str, Tensor]:
    places = matched.rows, matched.queries
    found, given = layer.boxes[places], matched.boxes.to(layer.boxes.dtype)
    overlap, generalised = _ious(found, given)
    classes = torch.full(layer.logits.shape[:2], of.config.num_labels, device=layer.logits.device)
    overlaps = layer.logits.new_zeros(layer.logits.shape[:2])
    classes[places], overlaps[places] = matched.classes, overlap.detach().to(overlaps.dtype)
    each = {SOFTMAX: _cross_entropy, FOCAL: _focal, VARIFOCAL: _varifocal}[of.kind](of, layer.logits, classes, overlaps)
    return {
        "classes": of.classes * (each * known[:, None]).sum(),
        "boxes": of.boxes * functional.l1_loss(found, given, reduction="sum"),
        "giou": of.giou * (1 - generalised).sum(),
    }


def _ious(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) intersection over union of boxes with those in the same place, and the generalised one."""
    corners: Any = center_to_corners_format(a), center_to_corners_format(b)  # type: ignore[arg-type]
    overlaps, _ = loss_for_object_detection.box_iou(*corners)  # type: ignore[no-untyped-call]
    generalised = loss_for_object_detection.generalized_box_iou(*corners)  # type: ignore[no-untyped-call]
    return torch.diag(overlaps), torch.diag(generalised)


def match(of: Criterion, layer: Layer, targets: Targets) -> Matched:
    """Each object with another query, so that the costs of all together are least. Of more objects than queries, some have none."""
    if not layer.boxes.isfinite().all():
        raise NonFiniteError("the model's boxes are not finite", fix="lower optimizer.learning_rate")
    if not any(len(target["boxes"]) for target in targets):
        return _joined([(torch.zeros(0, dtype=torch.int64),) * 2] * len(targets), targets)
    said = {"logits": layer.logits.detach(), "pred_boxes": layer.boxes.detach()}
    return _joined(of.matcher(said, targets), targets)


def denoised(noisy: Any, targets: Targets) -> Matched:
    """Noisy queries know their object."""
    repeats, pairs = noisy["dn_num_group"], []
    for queries, target in zip(noisy["dn_positive_idx"], targets, strict=True):
        pairs.append((queries, torch.arange(len(target["boxes"]), device=queries.device).repeat(repeats)))
    return _joined(pairs, targets)


def _joined(pairs: Sequence[tuple[Tensor, Tensor]], targets: Targets) -> Matched:
    """Of (queries, objects) of each row."""
    device = targets[0]["boxes"].device
    queries, objects = ([each[side].to(device) for each in pairs] for side in (0, 1))
    classes = [target["class_labels"][found] for target, found in zip(targets, objects, strict=True)]
    boxes = [target["boxes"][found] for target, found in zip(targets, objects, strict=True)]
    rows = [torch.full_like(found, place) for place, found in enumerate(queries)]
    return Matched(torch.cat(rows), torch.cat(queries), torch.cat(classes), torch.cat(boxes))


# --- classes: (rows, queries) losses of logits (rows, queries, classes) for class numbers, of which the last is no object -----


def _cross_entropy(of: Criterion, logits: Tensor, classes: Tensor, overlaps: Tensor) -> Tensor:
    weights = logits.new_ones(logits.shape[-1])
    weights[-1] = of.no_object
    return functional.cross_entropy(logits.transpose(1, 2), classes, weights, reduction="none")


def _focal(of: Criterion, logits: Tensor, classes: Tensor, overlaps: Tensor) -> Tensor:
    """a (1 - p)^2 * -log p, where p is the probability of what is right and a its weight."""
    wanted = _one_hot(logits, classes)
    wrong = (logits.sigmoid() - wanted).abs()
    alpha = of.config.focal_alpha * wanted + (1 - of.config.focal_alpha) * (1 - wanted)
    each = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    total: Tensor = (alpha * wrong**2 * each).sum(-1)
    return total


def _varifocal(of: Criterion, logits: Tensor, classes: Tensor, overlaps: Tensor) -> Tensor:
    """An object's score is to be its IoU q, with the weight q; that of all else 0, with the weight a p^g."""
    right = _one_hot(logits, classes)
    wanted = right * overlaps[..., None]
    alpha, gamma = of.config.focal_loss_alpha, of.config.focal_loss_gamma
    weights = alpha * logits.detach().sigmoid() ** gamma * (1 - right) + wanted
    return functional.binary_cross_entropy_with_logits(logits, wanted, weights, reduction="none").sum(-1)


def _one_hot(logits: Tensor, classes: Tensor) -> Tensor:
    """Zeros for no object."""
    return functional.one_hot(classes, logits.shape[-1] + 1)[..., :-1].to(logits.dtype)
