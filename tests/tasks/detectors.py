"""Tiny detectors of every family, with weights by chance; each a moment's work."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import (
    ConditionalDetrConfig,
    DeformableDetrConfig,
    DetrConfig,
    ResNetConfig,
    RTDetrConfig,
    RTDetrResNetConfig,
    YolosConfig,
)

QUERIES = 8
LABELS = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
BODY = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
DETR = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "dropout": 0.0, "d_model": 32}
DETR |= {"encoder_layers": 1, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
DETR |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": QUERIES, "auxiliary_loss": True, **LABELS}
RT_DETR = {"encoder_hidden_dim": 32, "encoder_in_channels": [16, 16, 32], "encoder_ffn_dim": 32, "d_model": 32}
RT_DETR |= {"encoder_attention_heads": 2, "decoder_in_channels": [32, 32, 32], "decoder_ffn_dim": 32, "dropout": 0.0}
RT_DETR |= {"decoder_layers": 3, "decoder_attention_heads": 4, "num_queries": QUERIES, "num_denoising": 12, **LABELS}
THREE = ["stage2", "stage3", "stage4"]


def _yolos() -> Any:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return YolosConfig(**sizes, image_size=[64, 96], num_detection_tokens=QUERIES, **LABELS)


CONFIGS: dict[str, Callable[[], Any]] = {
    "yolos": _yolos,
    "detr": lambda: DetrConfig(backbone_config=ResNetConfig(**BODY, out_features=["stage4"]), **DETR),
    "conditional_detr": lambda: ConditionalDetrConfig(
        backbone_config=ResNetConfig(**BODY, out_features=["stage4"]), **DETR
    ),
    "deformable_detr": lambda: DeformableDetrConfig(
        backbone_config=ResNetConfig(**BODY, out_features=THREE), num_feature_levels=3, **DETR
    ),
    "rt_detr": lambda: RTDetrConfig(backbone_config=RTDetrResNetConfig(**BODY, out_features=THREE), **RT_DETR),
}


def detector(family: str, **changes: Any) -> Any:
    """In train mode; with running statistics, so that a picture does not depend on those beside it."""
    config = CONFIGS[family]()
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model = transformers.AutoModelForObjectDetection.from_config(config)
    with torch.no_grad():  # at the start many layers say nothing, and normalisation makes rounding of nothing large
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign, misc]
            module.training = False
    return model.train()


def batch(*numbers: int) -> dict[str, torch.Tensor]:
    """Pictures with so many boxes each; -1 for the row of a rank that has none."""
    random = torch.Generator().manual_seed(1)
    shape = len(numbers), max(1, *numbers)
    class_labels, boxes = torch.full(shape, -100), torch.zeros(*shape, 4)
    for row, number in enumerate(numbers):
        number = max(0, number)
        class_labels[row, :number] = torch.randint(0, 3, (number,), generator=random)
        boxes[row, :number, :2] = torch.rand(number, 2, generator=random) / 2 + 0.25
        boxes[row, :number, 2:] = torch.rand(number, 2, generator=random) / 3 + 0.1
    sizes = torch.tensor([[60 * (number >= 0), 80 * (number >= 0)] for number in numbers])
    pixels = torch.randn(len(numbers), 3, 64, 96, generator=random)
    return {"pixel_values": pixels, "class_labels": class_labels, "boxes": boxes, "sizes": sizes}


def as_transformers(whole: dict[str, torch.Tensor]) -> dict[str, Any]:
    pairs = zip(whole["class_labels"], whole["boxes"], strict=True)
    labels = [{"class_labels": names[names >= 0], "boxes": boxes[names >= 0]} for names, boxes in pairs]
    return {"pixel_values": whole["pixel_values"], "labels": labels}
