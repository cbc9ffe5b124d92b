"""Pictures and sounds: what the model is given, what stands for nothing in its place, and attributions by cell or second."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from launcher.data import pictures, sounds
from launcher.explain import Asked
from launcher.explain.texts import inputs_of, of_labels

CELLS = 14  # a side of a picture, in the numbers that are written
BIN_SECONDS = 0.1
PICTURE_BASELINES = ("black", "mean")


def picture(predictor: Any, rows: Sequence[Mapping[str, Any]], target: str | None) -> Asked:
    return of_labels(predictor, inputs_of(predictor, rows), target, pictures.name(rows[0]))


def picture_baseline(asked: Asked, name: str, processor: Any) -> tuple[Tensor, str]:
    """(1, channels, height, width): a black picture as the model sees it, or the mean colour of this one everywhere."""
    given = asked.inputs["pixel_values"]
    if name == "mean":
        return given.mean((2, 3), keepdim=True).expand_as(given).clone(), "the picture's mean colour everywhere"
    black = torch.from_numpy(pictures.seen(pictures.black(), processor)).to(given)
    return black.mean((1, 2))[None, :, None, None].expand_as(given).clone(), "a black picture"


def cells(values: Tensor) -> list[list[float]]:
    """Sums over the channels and the pixels of each cell of a grid; (1, channels, height, width) -> rows of numbers."""
    by_pixel = values.sum(1, keepdim=True).double()
    height, width = by_pixel.shape[2:]
    side = min(CELLS, height), min(CELLS, width)
    rows = torch.arange(height) * side[0] // height
    columns = torch.arange(width) * side[1] // width
    found = torch.zeros(side, dtype=torch.float64)
    found.index_put_(
        (rows[:, None].expand(height, width), columns[None].expand(height, width)), by_pixel[0, 0], accumulate=True
    )
    return found.tolist()


def as_seen(values: Tensor, processor: Any) -> Any:
    """The picture that pixel_values (1, channels, height, width) are of, as PIL has it."""
    from PIL import Image

    pixels = values[0].float().cpu()
    if getattr(processor, "do_normalize", False):
        mean, std = (torch.tensor(getattr(processor, name)).reshape(-1, 1, 1) for name in ("image_mean", "image_std"))
        pixels = pixels * std + mean
    array = (pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array if array.shape[2] == 3 else array[:, :, 0])


def overlay(values: Tensor, seen: Any) -> Any:
    """The picture in grey under what speaks for the label in blue and against it in orange, smoothed a little for the eye."""
    import numpy as np
    from PIL import Image

    by_pixel = values.sum(1, keepdim=True)
    kernel = max(1, by_pixel.shape[2] // 32) * 2 + 1
    smooth = functional.avg_pool2d(by_pixel, kernel, 1, kernel // 2, count_include_pad=False)[0, 0]
    scale = float(smooth.abs().quantile(0.99)) or 1.0
    strength = (smooth / scale).clamp(-1, 1)
    grey = torch.from_numpy(np.array(seen.convert("L"))).float()[None] / 255
    colour = torch.where(strength[None] > 0, _colour(0x00, 0x72, 0xB2), _colour(0xD5, 0x5E, 0x00))
    share = 0.85 * strength.abs()[None]
    mixed = (0.4 + 0.6 * grey) * (1 - share) + colour * share
    return Image.fromarray((mixed * 255).round().byte().permute(1, 2, 0).numpy())


def sound(predictor: Any, rows: Sequence[Mapping[str, Any]], target: str | None) -> Asked:
    inputs = inputs_of(predictor, rows)
    seconds = float(rows[0]["samples"]) / predictor.context.processor.sampling_rate
    return of_labels(predictor, inputs, target, sounds.name(rows[0]), {"extra": {"seconds": round(seconds, 3)}})


def sound_input(predictor: Any) -> str:
    """The tensor that holds what is heard."""
    return str(predictor.context.processor.model_input_names[0])


def silence(predictor: Any, rows: Sequence[Mapping[str, Any]], given: Tensor) -> Tensor:
    """What the model is given of a silence that is as long."""
    import numpy as np

    extractor = predictor.context.processor
    quiet = np.zeros(max(int(rows[0]["samples"]), sounds.shortest(extractor.sampling_rate)), np.float32)
    found: Tensor = sounds.together([quiet], extractor)[extractor.model_input_names[0]].to(given)
    if found.shape != given.shape:
        found = (
            functional.pad(found, (0, given.shape[-1] - found.shape[-1])) if found.ndim == 2 else found.expand_as(given)
        )
    return found


def by_second(values: Tensor, extractor: Any, seconds: float) -> list[dict[str, float]]:
    """Sums over stretches of a tenth of a second, of a waveform (1, samples) or a spectrogram; what follows the sound, which
    is padding, counts with the last."""
    if values.ndim == 2:
        by_step, rate = values[0].double(), float(extractor.sampling_rate)
    else:
        bands = getattr(extractor, "num_mel_bins", None) or extractor.feature_size
        by_step = values[0].double().sum(0 if values.shape[1] == bands else 1)
        rate = extractor.sampling_rate / getattr(extractor, "hop_length", extractor.sampling_rate / 100)
    number = max(1, -int(-seconds // BIN_SECONDS))
    places = (torch.arange(len(by_step)) / rate / BIN_SECONDS).long().clamp(max=number - 1)
    sums = torch.zeros(number, dtype=torch.float64).index_add_(0, places, by_step)
    ends = [min(seconds, (place + 1) * BIN_SECONDS) for place in range(number)]
    return [
        {"start": round(place * BIN_SECONDS, 3), "end": round(end, 3), "attribution": float(value)}
        for place, (end, value) in enumerate(zip(ends, sums, strict=True))
    ]


def _colour(*channels: int) -> Tensor:
    return torch.tensor(channels).reshape(3, 1, 1) / 255
