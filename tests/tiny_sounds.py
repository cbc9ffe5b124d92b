"""Tiny models of sounds, and folders of tones that differ in pitch and in length, made in a moment."""

from pathlib import Path
from typing import Any

import numpy as np

RATE, FILE_RATE = 4000, 8000
PITCHES = {"high": 900, "low": 200, "middle": 450}


def tone(label: str, seconds: float, seed: int = 0) -> np.ndarray:
    """(samples,) fp32 at `FILE_RATE`: a sine with noise."""
    times = np.arange(round(seconds * FILE_RATE)) / FILE_RATE
    noise = np.random.default_rng(seed).normal(0, 0.1, len(times))
    return (0.3 * np.sin(2 * np.pi * PITCHES[label] * times) + noise).astype(np.float32)


def in_folders(folder: Path, number: int, first: int = 0) -> None:
    """folder/CLASS/NNN.wav, from 0.2 to 0.6 seconds."""
    import soundfile

    for index in range(first, first + number):
        label = list(PITCHES)[index % len(PITCHES)]
        (folder / label).mkdir(parents=True, exist_ok=True)
        seconds = 0.2 + 0.4 * np.random.default_rng(index).random()
        soundfile.write(folder / label / f"{index:03}.wav", tone(label, seconds, index), FILE_RATE)


def save_wav2vec2(folder: Path, mask: bool = True, **changes: Any) -> None:
    """Without its head and without chance; with `mask` padding is not heard, otherwise it is, as by facebook/wav2vec2-base."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    shape: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    shape |= {"conv_dim": (16, 16), "conv_kernel": (10, 5), "conv_stride": (5, 4), "num_feat_extract_layers": 2}
    shape |= {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4, "classifier_proj_size": 16}
    chances = ("hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout")
    shape |= dict.fromkeys((*chances, "layerdrop", "mask_time_prob"), 0.0)
    norm = {"feat_extract_norm": "layer", "do_stable_layer_norm": True} if mask else {"feat_extract_norm": "group"}
    Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=mask).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Wav2Vec2Model(Wav2Vec2Config(**shape | norm | changes)).save_pretrained(folder)
