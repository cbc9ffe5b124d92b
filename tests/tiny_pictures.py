"""Pictures, masks and models that are made in a moment: the same bytes every time."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 200), "green": (30, 180, 60), "red": (200, 40, 40)}
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
VIT |= {"image_size": 16, "patch_size": 4, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SEGFORMER = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 32], "num_attention_heads": [1, 1, 2, 2]}
SEGFORMER |= {"decoder_hidden_size": 16, "drop_path_rate": 0.0, "classifier_dropout_prob": 0.0}
YOLOS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
YOLOS |= {"image_size": [32, 48], "patch_size": 16, "num_detection_tokens": 6}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


def png(pixels: Any, **options: Any) -> bytes:
    """The bytes of a PNG of an array (height, width[, channels]) or a picture."""
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
    content = io.BytesIO()
    picture.save(content, options.pop("format", "PNG"), **options)
    return content.getvalue()


def noise(number: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 60, (height, width, 3))


def in_folders(folder: Path, number: int, first: int = 0) -> Path:
    """folder/COLOUR/NN.png: pictures of one colour each, with noise, none as large as the next."""
    for place in range(first, first + number):
        name = list(COLOURS)[place % len(COLOURS)]
        pixels = np.clip(noise(place, 14 + place % 5, 18 + place % 3) + COLOURS[name], 0, 255).astype(np.uint8)
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{place:02}.png").write_bytes(png(pixels))
    return folder


def with_masks(folder: Path, number: int, first: int = 0) -> Path:
    """folder/images/NN.png with a bright rectangle and folder/masks/NN.png, which is 255 there, else 0."""
    for place in range(first, first + number):
        height, width = 30 + place % 5, 40 + place % 7
        mask = np.zeros((height, width), np.uint8)
        mask[5 : 12 + place % 9, 8 + place % 11 : 30] = 255
        pixels = (noise(place, height, width) + mask[..., None] // 2).astype(np.uint8)
        for name, content in (("images", pixels), ("masks", mask)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / f"{place:02}.png").write_bytes(png(content))
    return folder


def with_boxes(file: Path, number: int, first: int = 0) -> Path:
    """A COCO file and pictures beside it: none, one or two bright rectangles each, tall or wide, none as large as the next."""
    images, annotations = [], []
    for place in range(first, first + number):
        height, width = 30 + place % 5, 40 + place % 7
        pixels = noise(place, height, width)
        for side in range(place % 3):
            x, y, w, h = 3 + 18 * side, 2 + place % 8, *((8, 18 - place % 3) if (place + side) % 2 else (17, 9))
            pixels[y : y + h, x : x + w] += 150
            annotations.append({"image_id": place, "category_id": w > h, "bbox": [x, y, w, h], "id": len(annotations)})
        images.append({"id": place, "file_name": f"{place:02}.png", "width": width, "height": height})
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / f"{place:02}.png").write_bytes(png(pixels.astype(np.uint8)))
    categories = [{"id": 0, "name": "tall"}, {"id": 1, "name": "wide"}]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def save(model_class: str, config: Any, folder: Path, **size: Any) -> Path:
    """A model with weights by chance, and the processor of its kind."""
    import torch
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(0)
        getattr(transformers, model_class)(config).save_pretrained(folder)
    save_processor(config.model_type, folder, size=size)
    return folder


def save_processor(model_type: str, folder: Path, **options: Any) -> None:
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    name = IMAGE_PROCESSOR_MAPPING_NAMES[model_type]["pil"]
    getattr(transformers, name)(**options).save_pretrained(folder)


def save_vit(folder: Path) -> Path:
    from transformers import ViTConfig

    return save("ViTModel", ViTConfig(**VIT), folder, height=16, width=16)


def save_segformer(folder: Path) -> Path:
    from transformers import SegformerConfig

    return save("SegformerModel", SegformerConfig(**SEGFORMER), folder, height=32, width=48)


def save_yolos(folder: Path) -> Path:
    from transformers import YolosConfig

    return save("YolosModel", YolosConfig(**YOLOS), folder, height=32, width=48)
