"""Hashes of files."""

import hashlib
import json
from pathlib import Path

SAMPLES, SAMPLE_BYTES = 256, 4096


def file_digest(path: Path) -> str:
    """Of every byte."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def sampled_digest(path: Path) -> str:
    """Of the size and of samples that are spread evenly: tells two models apart in no time, not two that differ in a few bytes."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as content:
        for number in range(SAMPLES):
            content.seek(max(0, size - SAMPLE_BYTES) * number // (SAMPLES - 1))
            digest.update(content.read(SAMPLE_BYTES))
    return digest.hexdigest()


def weights_digest(folder: str | None) -> str:
    """Of the files of weights of a local model, by samples."""
    patterns = ("*.safetensors", "*.bin") if folder is not None else ()
    files = sorted(path for pattern in patterns for path in Path(str(folder)).glob(pattern))
    sampled = json.dumps([[path.name, sampled_digest(path)] for path in files])
    return hashlib.sha256(sampled.encode()).hexdigest()[:12]
