"""Sounds: one channel at the rate of the model, and every kind of file that cannot be used named with its place."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny_sounds
from transformers import (
    ASTFeatureExtractor,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from launcher.data import sounds
from launcher.errors import DataError


def wav(samples: np.ndarray, rate: int = 8000, **options: Any) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format=options.pop("format", "WAV"), **options)
    return content.getvalue()


def heard(content: bytes | str, rate: int, max_seconds: float | None = None) -> np.ndarray:
    row, _ = sounds.first_read(content, rate, "here")
    return sounds.read({**row, "where": "here"}, rate, max_seconds)


def sine(pitch: float, seconds: float, rate: int) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize(("own_rate", "rate"), [(8000, 16000), (44100, 16000), (16000, 16000)])
def test_a_sine_is_the_same_sine_at_another_rate(own_rate: int, rate: int) -> None:
    found, wanted = heard(wav(sine(440, 1, own_rate), own_rate, subtype="FLOAT"), rate), sine(440, 1, rate)
    assert found.dtype == np.float32 and len(found) == len(wanted)
    middle = slice(rate // 10, -rate // 10)  # a resampler does not know what comes before and after
    assert np.abs(found - wanted)[middle].max() < 1e-3


def test_channels_are_averaged_and_a_pitch_that_the_rate_cannot_hold_is_gone() -> None:
    low, high = sine(200, 1, 16000), sine(7000, 1, 16000)
    assert heard(wav(np.stack([low, low / 2], 1), 16000, subtype="FLOAT"), 16000) == pytest.approx(0.75 * low, abs=1e-6)
    assert np.abs(heard(wav(high, 16000), 8000))[800:-800].max() < 1e-2, "it would be heard at 1000 Hz"


@pytest.mark.parametrize("form", ["FLAC", "OGG"])
def test_a_compressed_file_and_a_file_of_a_name_are_heard_alike(tmp_path: Path, form: str) -> None:
    content = wav(sine(440, 0.5, 8000), format=form)
    (tmp_path / "a").write_bytes(content)
    assert np.array_equal(heard(content, 8000), heard(str(tmp_path / "a"), 8000))
    assert heard(content, 8000)[400:-400] == pytest.approx(sine(440, 0.5, 8000)[400:-400], abs=0.02)


def test_the_beginning_of_a_long_sound_is_kept_and_a_short_one_ends_in_silence() -> None:
    long = heard(wav(sine(300, 2, 8000), subtype="FLOAT"), 8000, max_seconds=0.5)
    assert long == pytest.approx(sine(300, 0.5, 8000), abs=1e-6)
    short = heard(wav(np.full(80, 0.5), subtype="FLOAT"), 8000)
    assert len(short) == 2000 and (short[:80] == 0.5).all() and not short[80:].any()


SPOILED = {
    "the sound cannot be read": b"RIFF and no more",
    "the sound has no samples": wav(np.zeros(0)),
    "no finite numbers": wav(np.array([0.1, np.nan]), subtype="FLOAT"),
}


@pytest.mark.parametrize("message", SPOILED)
def test_what_cannot_be_heard_is_named_with_its_place(message: str) -> None:
    with pytest.raises(DataError, match=f"^here: .*{message}"):
        heard(SPOILED[message], 8000)


def test_an_empty_file_a_cut_one_and_one_that_is_gone_are_named(tmp_path: Path) -> None:
    for name, content in {"empty.wav": b"", "cut.flac": wav(sine(440, 1, 8000), format="FLAC")[:30]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="cannot be read|no samples"):
            heard(str(tmp_path / name), 8000)
    with pytest.raises(DataError, match="No such file"):
        heard(str(tmp_path / "gone.wav"), 8000)


@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
def test_a_wav_file_that_was_cut_off_is_named_and_one_from_a_pipe_is_heard(form: str) -> None:
    content = wav(sine(440, 1, 8000), format=form)
    promised = content.index(b"data") + 4
    for end in (len(content) // 2, promised + 20):
        with pytest.raises(
            DataError, match="^here: the sound is cut off: .* 16,000 bytes of samples, and .* are there; mend"
        ):
            heard(content[:end], 8000)
    assert np.array_equal(heard(content + b"LIST\4\0\0\0more", 8000), heard(content, 8000))
    for size in (0xFFFFFFFF, 0x7FFFF000, 16000 + 36):
        piped = content[:promised] + size.to_bytes(4, "little") + content[promised + 4 :]
        assert np.array_equal(heard(piped, 8000), heard(content, 8000))


def test_a_file_that_has_changed_since_is_not_heard(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(sine(440, 1, 8000)))
    row, _ = sounds.first_read(str(path), 8000, "list.csv:2")
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    with pytest.raises(DataError, match=r"a\.wav: the sound has changed since"):
        sounds.read({**row, "where": "list.csv:2"}, 8000, None)


# --- what a model is given ---------------------------------------------------------------------------------------------


def test_each_clip_is_normalised_by_itself_and_padding_is_masked_or_told_by_its_length() -> None:
    clips = [tiny_sounds.tone("low", seconds)[::2] for seconds in (0.5, 0.3)]
    for mask in (True, False):
        extractor = Wav2Vec2FeatureExtractor(sampling_rate=4000, return_attention_mask=mask)
        batch = sounds.together(clips, extractor)
        assert set(batch) == {"input_values", "lengths", *(["attention_mask"] if mask else [])}
        assert batch["lengths"].tolist() == [2000, 1200]
        assert not mask or batch["attention_mask"].sum(1).tolist() == [2000, 1200]
        for row, clip in enumerate(clips):
            values = batch["input_values"][row].numpy()
            wanted = (clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)
            assert values[: len(clip)] == pytest.approx(wanted, abs=1e-5) and not values[len(clip) :].any()


@pytest.mark.parametrize(
    ("extractor", "shape", "seconds"),
    [
        (ASTFeatureExtractor(num_mel_bins=16, max_length=64), (64, 16), 0.655),
        (WhisperFeatureExtractor(feature_size=20, chunk_length=1), (20, 100), 1.0),
    ],
)
def test_spectrograms_have_one_size_and_say_how_much_they_hear(
    extractor: Any, shape: tuple[int, int], seconds: float
) -> None:
    noise = np.random.default_rng(0).normal(size=2 * extractor.sampling_rate).astype(np.float32)
    clips = [noise[: extractor.sampling_rate // 3], noise]
    batch = sounds.together(clips, extractor)
    (values,) = batch.values()
    assert values.shape == (2, *shape) and sounds.heard_seconds(extractor) == seconds
    assert sounds.together([], extractor)[extractor.model_input_names[0]].shape == (1, *shape)
    for part, is_same in ((seconds, True), (seconds - 0.02, False)):
        (again,) = sounds.together([noise[: round(extractor.sampling_rate * part)]], extractor).values()
        assert np.allclose(again[0], values[1], atol=1e-5) == is_same, "it hears what it says, no more and no less"


def test_frames_of_any_number_are_padded_with_their_mask() -> None:
    extractor = SeamlessM4TFeatureExtractor(feature_size=20, num_mel_bins=20, sampling_rate=16000)
    assert sounds.heard_seconds(extractor) is None
    noise = np.random.default_rng(0).normal(size=16000).astype(np.float32)
    batch = sounds.together([noise, noise[:8000]], extractor)
    assert batch["input_features"].shape[:2] == batch["attention_mask"].shape
    assert batch["attention_mask"].sum(1).tolist()[0] > batch["attention_mask"].sum(1).tolist()[1]
