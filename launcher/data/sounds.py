"""Sounds: read from a file or from bytes, mixed to one channel at the rate of the model, kept in prepared rows by name and digest.

A sound is decoded once while rows are prepared, so that one that cannot be used is found then and not in the middle of a run;
one that has changed since is an error.
"""

import io
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from launcher.data import media_rows
from launcher.errors import DataError, RecipeError

# A shorter clip is followed by silence: wav2vec2 needs 25 ms for a single frame, and 0.21 s for the ten that it masks at a time.
SHORTEST_SECONDS = 0.25
SLACK_BYTES = 64  # some programs count the header as well
STREAMED_BYTES = 0x7FFF0000  # from here on a size means that a program wrote into a pipe and did not know it
MEND = "mend or remove the sound, or set data.on_error: skip"
KINDS = {**media_rows.kinds("audio"), "samples": "int"}  # columns of prepared rows


def first_read(source: str | bytes, rate: int, where: str) -> tuple[dict[str, Any], float]:
    """The columns of `KINDS`, samples counted at `rate` a second, and the seconds. DataError for what cannot be used."""
    columns, content = media_rows.first_read("audio", source, "sound", where)
    sound, own_rate = decoded(content, where)
    seconds = len(sound) / own_rate
    return {**columns, "samples": round(seconds * rate)}, seconds


def read(row: Mapping[str, Any], rate: int, max_seconds: float | None) -> np.ndarray:
    """(samples,) fp32 of a prepared row at `rate`, its beginning where it is longer than `max_seconds`.

    DataError where it is not what it was when the row was made.
    """
    sound, own_rate = decoded(*media_rows.read(row, "audio", "sound"))
    return at_rate(sound if max_seconds is None else sound[: round(max_seconds * own_rate)], own_rate, rate)


def decoded(content: bytes, where: str) -> tuple[np.ndarray, int]:
    """(samples,) fp32, the mean of the channels, and samples a second. DataError for what cannot be used."""
    import soundfile

    try:
        channels, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (RuntimeError, TypeError, ValueError) as error:
        said = str(error).rpartition(": ")[2].rstrip(".")
        raise DataError(f"the sound cannot be read: {said}", where=where, fix=MEND) from error
    _insist_on_all(content, where)
    sound: np.ndarray = channels.mean(1, dtype=np.float32)
    if not len(sound):
        raise DataError("the sound has no samples", where=where, fix=MEND)
    if not np.isfinite(sound).all():
        raise DataError("the sound has samples that are no finite numbers", where=where, fix=MEND)
    return sound, rate


def _insist_on_all(content: bytes, where: str) -> None:
    """DataError for a WAV file that was cut off, whose header promises more than there is; it would end early in silence."""
    place = len(b"RIFF....WAVE")
    while content[:4] == b"RIFF" and place + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, place)
        place += 8
        there = len(content) - place
        if name == b"data" and there + SLACK_BYTES < size < STREAMED_BYTES:
            problem = f"the sound is cut off: its header promises {size:,} bytes of samples, and {there:,} are there"
            raise DataError(problem, where=where, fix=MEND)
        place += size + size % 2


def at_rate(sound: np.ndarray, own_rate: int, rate: int) -> np.ndarray:
    """Resampled by soxr at its high quality, and at least `SHORTEST_SECONDS` long."""
    import soxr

    found: np.ndarray = sound if own_rate == rate else soxr.resample(sound, own_rate, rate)
    return np.pad(found, (0, max(0, shortest(rate) - len(found))))


def shortest(rate: int) -> int:
    """Samples of the shortest clip that a model is given."""
    return round(SHORTEST_SECONDS * rate)


# --- what a model is given ---------------------------------------------------------------------------------------------


def heard_seconds(extractor: Any) -> float | None:
    """The most that the extractor looks at, where its output has one size whatever the sound; else None."""
    if hasattr(extractor, "chunk_length"):  # Whisper
        return float(extractor.chunk_length)
    frames = getattr(extractor, "max_length", None)  # AST: one of 25 ms every 10 ms
    return 0.025 + (frames - 1) / 100 if isinstance(frames, int) and hasattr(extractor, "num_mel_bins") else None


def features(sound: np.ndarray, extractor: Any) -> dict[str, np.ndarray]:
    """What the model is given of one sound: input_values (samples,) or a spectrogram, and attention_mask if it wants one."""
    found = extractor(sound, sampling_rate=extractor.sampling_rate, return_tensors="np")
    return {name: np.asarray(found[name][0]) for name in found}


def together(sounds: Sequence[np.ndarray], extractor: Any) -> dict[str, Any]:
    """Tensors with a row for each sound, padded on the right; those of a short silence where there is none.

    `lengths` (rows,) int64, in samples, of waveforms: not for the model, but for who must know what is padding.
    """
    import torch

    silence = np.zeros(shortest(extractor.sampling_rate), np.float32)
    found = [features(sound, extractor) for sound in sounds] or [features(silence, extractor)]
    values = extractor.model_input_names[0]
    batch = {name: padded([one[name] for one in found], extractor) for name in found[0]}
    if found[0][values].ndim == 1:
        batch["lengths"] = np.array([len(one[values]) for one in found])
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def padded(arrays: Sequence[np.ndarray], extractor: Any) -> np.ndarray:
    """One array of all, each filled up with zeros along its first axis; fp32, or int64 for whole numbers."""
    width = max(len(array) for array in arrays)
    dtype = np.float32 if arrays[0].dtype.kind == "f" else np.int64
    if len({array.shape[1:] for array in arrays}) > 1:
        raise RecipeError(f"{type(extractor).__name__} makes inputs of different sizes", fix="use another model")
    batch = np.zeros((len(arrays), width, *arrays[0].shape[1:]), dtype)
    for number, array in enumerate(arrays):
        batch[number, : len(array)] = array
    return batch


def name(row: Mapping[str, Any]) -> str:
    """The sound's file, or where it stands in a file of many."""
    return str(row["audio"] or row["where"])
