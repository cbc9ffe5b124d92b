"""Makes tones_*.parquet: short sounds whose pitch rises, falls or stays, as FLAC in the column `audio`, with a `label`.

python recipes/data/make_tones.py            # write the files beside this script
python recipes/data/make_tones.py --check    # make them again and compare what is heard
"""

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import soundfile

HERE = Path(__file__).parent
RATE = 8000  # samples a second; the launcher resamples to what the model wants
ROWS = {"train": 42, "eval": 12}
PITCHES = {"falling": (1.6, 0.6), "rising": (0.6, 1.6), "steady": (1.0, 1.0)}  # at the start and the end, of the middle


def tone(label: str, chance: np.random.Generator) -> np.ndarray:
    """(samples,): 0.3 to 0.5 seconds around a pitch of 250 to 900 Hz, with some noise."""
    samples = int(RATE * chance.uniform(0.3, 0.5))
    pitches = chance.uniform(250, 900) * np.linspace(*PITCHES[label], samples)
    sound = 0.5 * np.sin(2 * np.pi * np.cumsum(pitches) / RATE + chance.uniform(0, 6))
    return sound * np.hanning(samples) ** 0.5 + chance.normal(0, 0.01, samples)


def flac(sound: np.ndarray) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, sound, RATE, format="FLAC", subtype="PCM_S8")
    return content.getvalue()


def table(name: str) -> pyarrow.Table:
    chance = np.random.default_rng(list(ROWS).index(name))
    labels = [list(PITCHES)[index % len(PITCHES)] for index in range(ROWS[name])]
    return pyarrow.table({"audio": [flac(tone(label, chance)) for label in labels], "label": labels})


def heard(rows: pyarrow.Table) -> list[np.ndarray]:
    return [soundfile.read(io.BytesIO(content))[0] for content in rows["audio"].to_pylist()]


def main() -> int:
    for name in ROWS:
        path, made = HERE / f"tones_{name}.parquet", table(name)
        if "--check" not in sys.argv:
            pyarrow.parquet.write_table(made, path)
        elif not all(map(np.array_equal, heard(made), heard(pyarrow.parquet.read_table(path)))):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
