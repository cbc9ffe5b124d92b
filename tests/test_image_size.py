"""data.image_size is what the model sees, whatever an image processor calls it, and plain transformers finds it in the export."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_pictures import VIT

from launcher import processor, shape_trial
from launcher.data import pictures
from launcher.errors import EnvironmentProblem, RecipeError
from launcher.task import Traits

PICTURE = Image.new("RGB", (50, 80), (200, 10, 10))
CLASSES, PLACES = (
    Traits("", "", (), (), (), processor="image_processor", crops_pictures=crops) for crops in (True, False)
)


def recipe(model_type: str, size: Any = None, **init: Any) -> Any:
    model = SimpleNamespace(name_or_path=None, init={"model_type": model_type, **init})
    return SimpleNamespace(model=model, data=SimpleNamespace(image_size=size), origin=lambda key: f"recipe:{key}")


@pytest.mark.parametrize(
    ("traits", "model_type", "size", "seen"),
    [
        (CLASSES, "vit", None, (224, 224)),
        (CLASSES, "vit", 96, (96, 96)),
        (CLASSES, "vit", (64, 96), (64, 96)),
        (CLASSES, "deit", (64, 96), (64, 96)),  # resizes, then crops
        (CLASSES, "mobilenet_v2", 96, (96, 96)),  # shortest edge, then crops
        (CLASSES, "mobilenet_v2", (64, 96), (64, 96)),
        (CLASSES, "resnet", 96, (96, 96)),  # shortest edge alone
        (PLACES, "segformer", 96, (96, 96)),
        (PLACES, "mobilevit", None, (256, 256)),  # would crop
        (PLACES, "mobilevit", (64, 96), (64, 96)),
        (PLACES, "detr", 96, (153, 96)),  # shortest and longest edge
        (PLACES, "detr", (64, 96), (64, 96)),
    ],
)
def test_the_model_sees_that_size(traits: Traits, model_type: str, size: Any, seen: tuple[int, int]) -> None:
    used = processor._of_model(recipe(model_type, size), traits)
    assert pictures.seen(PICTURE, used).shape == (3, *seen)
    assert used.backend == "pil"


def test_where_places_matter_nothing_is_cut_off() -> None:
    border = Image.new("RGB", (100, 60), (255, 255, 255))
    border.paste((0, 0, 0), (5, 5, 95, 55))
    seen = pictures.seen(border, processor._of_model(recipe("mobilevit", 60), PLACES))
    assert seen[:, 0].min() > 0.9 and seen[:, :, 0].min() > 0.9


def test_a_model_from_its_configuration_is_given_the_size_that_it_names() -> None:
    assert dict(processor._of_model(recipe("vit", image_size=32), CLASSES).size) == {"height": 32, "width": 32}
    assert dict(processor._of_model(recipe("vit", 48, image_size=32), CLASSES).size) == {"height": 48, "width": 48}


def test_an_export_holds_it(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    used = processor._of_model(recipe("mobilenet_v2", (64, 96)), CLASSES)
    used.save_pretrained(tmp_path)
    again = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert (pictures.seen(PICTURE, again) == pictures.seen(PICTURE, used)).all()
    assert processor.from_folder(tmp_path, CLASSES).to_dict() == used.to_dict()


def test_what_cannot_be_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RecipeError, match="recipe:data.image_size: .*ConvNextImageProcessorPil makes squares"):
        processor._of_model(recipe("resnet", (64, 96)), CLASSES)
    with pytest.raises(RecipeError, match="Siglip2ImageProcessorPil has no size"):
        processor._of_model(recipe("siglip2", 64), CLASSES)
    with pytest.raises(RecipeError, match="no image processor for a model of type llama"):
        processor._of_model(recipe("llama"), CLASSES)
    with pytest.raises(
        EnvironmentProblem, match="the image processor cannot be loaded: .* library but it was not found"
    ):
        processor._of_model(recipe("timm_wrapper"), CLASSES)
    assert capfd.readouterr() == ("", "")


def tried(model_class: str, config: Any, used: Any) -> Any:
    import transformers

    with torch.device("meta"):
        model = getattr(transformers, model_class)(config).train()
    found = shape_trial.unused(model, used, recipe(config.model_type), Traits("", "", (), (), ()))
    assert model.training and all(weight.grad is None for weight in model.parameters())
    return found


def test_a_model_that_takes_no_such_pictures_is_refused_before_it_trains() -> None:
    from transformers import ViTConfig

    config = ViTConfig(**VIT)
    for size in (16, None):
        used = processor._of_model(recipe("vit", size, image_size=16), CLASSES)
        assert tried("ViTForImageClassification", config, used) == ()
    with pytest.raises(RecipeError, match=r"recipe:data.image_size: .*Input image size \(20\*20\) doesn't match"):
        tried("ViTForImageClassification", config, processor._of_model(recipe("vit", 20), CLASSES))


def test_weights_that_nothing_depends_on_are_found() -> None:
    """One picture of this size is also a single value to normalise."""
    from transformers import MobileNetV2Config

    used = processor._of_model(recipe("mobilenet_v2", 64), PLACES)
    found = tried("MobileNetV2ForSemanticSegmentation", MobileNetV2Config(depth_multiplier=0.35), used)
    assert found and all(name.startswith("mobilenet_v2.conv_1x1.") for name in found)


def test_a_feature_extractor_is_that_of_the_type_of_model() -> None:
    used = processor._of_model(recipe("wav2vec2"), Traits("", "", (), (), (), processor="feature_extractor"))
    assert type(used).__name__ == "Wav2Vec2FeatureExtractor"


def test_the_pixels_are_pil_s_even_where_torchvision_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(
        transformers.AutoImageProcessor, "from_pretrained", lambda name, **options: asked.append(options)
    )
    pretrained = SimpleNamespace(name_or_path="x", init=None, revision=None, trust_remote_code=False)
    processor._of_model(SimpleNamespace(**vars(recipe("vit")) | {"model": pretrained}), CLASSES)
    processor.from_folder(Path("x"), CLASSES)
    assert [options["backend"] for options in asked] == ["pil", "pil"]
