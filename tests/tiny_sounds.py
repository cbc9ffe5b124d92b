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


SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 5),
    "conv_stride": (5, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 16,
}
CHANCE = (
    "hidden_dropout",
    "activation_dropout",
    "attention_dropout",
    "feat_proj_dropout",
    "final_dropout",
    "layerdrop",
)
CHANCE += ("mask_time_prob",)


def save(folder: Path, model_type: str = "wav2vec2", mask: bool = True, **changes: Any) -> Path:
    """A model without its head and without chance. With `mask` padding is not heard, else it is, as by facebook/wav2vec2-base."""
    import torch
    from transformers import AutoConfig, AutoModel, Wav2Vec2FeatureExtractor

    own: dict[str, Any] = {"conv_pos_kernel_size": 7, "num_conv_pos_embeddings": 2}
    if model_type == "wav2vec2":
        own = {"num_conv_pos_embeddings": 8, "do_stable_layer_norm": mask}
        own["feat_extract_norm"] = "layer" if mask else "group"
    config = AutoConfig.for_model(model_type, **{**SHAPE, **dict.fromkeys(CHANCE, 0.0), **own, **changes})
    Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=mask).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(folder)
    return folder


def save_ast(folder: Path) -> Path:
    """One that takes spectrograms of one size: 64 frames, which are 0.655 seconds at 16 kHz."""
    import torch
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    size = {"num_mel_bins": 16, "max_length": 64}
    ASTFeatureExtractor(**size).save_pretrained(folder)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    config = ASTConfig(**size, **{name: SHAPE[name] for name in names}, patch_size=8, time_stride=8, frequency_stride=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ASTModel(config).save_pretrained(folder)
    return folder
