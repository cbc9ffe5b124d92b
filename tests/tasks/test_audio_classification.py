"""Labels for sounds: the loss against transformers' own on each clip by itself, what is too long, and predictions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tiny
import tiny_sounds
import tiny_tasks
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline
from workers import Workers

from launcher import chance, model
from launcher.data.context import Context, Tools
from launcher.data.labels import Labels
from launcher.errors import DataError
from launcher.objectives.options import Classification
from launcher.schema import Data
from launcher.tasks.audio_classification import objective, rows

LABELS = ["low", "high", "middle", "low", "high", "high"]
SECONDS = [0.6, 0.26, 0.4, 0.4, 0.01, 0.5]  # two of one length, and one that is too short for a model
KINDS = {
    "mask in vain": lambda folder: tiny_sounds.save(folder, "data2vec-audio"),  # its convolutions hear what is padded
    "masked": lambda folder: tiny_sounds.save(folder, mask=True),
    "not masked": lambda folder: tiny_sounds.save(folder, mask=False),  # as facebook/wav2vec2-base
    "spectrograms": tiny_sounds.save_ast,
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return KINDS[request.param](tmp_path_factory.mktemp("model") / request.param.replace(" ", "-"))


def context(folder: Path, **data: Any) -> Context:
    head = {"problem_type": "single_label_classification", "num_labels": 3}
    labels = Labels.listed(["high", "low", "middle"])
    return Context(AutoFeatureExtractor.from_pretrained(folder), Data.model_validate(data), labels=labels, head=head)


def prepared(given: Context, folder: Path, policy: str = "truncate") -> tuple[list[dict[str, Any]], dict[str, int]]:
    tools = Tools(given.processor, given.data, policy, {}, given.labels)
    found = []
    for number, (label, seconds) in enumerate(zip(LABELS, SECONDS, strict=True)):
        path = folder / f"{number}.wav"
        soundfile.write(path, tiny_sounds.tone(label, seconds, number), tiny_sounds.FILE_RATE)
        found += rows.rows(f"here:{number}", {"audio": str(path), "label": label}, tools)
    return found, tools.counts


def batch(some: list[dict[str, Any]], given: Context) -> dict[str, torch.Tensor]:
    return rows.collate([[index] for index in range(len(some))], lambda index: some[index], given)


def load(folder: Path) -> Any:
    torch.manual_seed(0)
    return AutoModelForAudioClassification.from_pretrained(folder, num_labels=3)


def test_loss_and_gradients_are_those_of_each_clip_alone_however_they_are_cut(folder: Path, tmp_path: Path) -> None:
    """The reference hears one clip at a time, which is never padded; then all at once, in micro-batches, and with none."""
    given, used = context(folder), load(folder).train()
    chance.switch_off(used)
    found, counts = prepared(given, tmp_path)
    assert counts["rows filled up with silence to 0.25 seconds"] == 1
    alone = [batch([row], given) for row in found]
    inputs = [{name: tensor for name, tensor in one.items() if name not in ("lengths", "labels")} for one in alone]
    losses = [used(**kept, labels=one["labels"]).loss for kept, one in zip(inputs, alone, strict=True)]
    torch.stack(losses).mean().backward()
    wanted = {name: weight.grad.clone() for name, weight in used.named_parameters() if weight.grad is not None}
    for cuts in ([found], [found[:3], found[3:4], found[4:], []]):
        used.zero_grad()
        trained = objective.build(used, Classification(), given)
        parts = [batch(some, given) for some in cuts]
        total = sum(trained(**part).terms["labels"][0] for part in parts)
        assert sum(trained.counts(part)["labels"] for part in parts) == 6
        assert float(total) / 6 == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
        (total / 6).backward()
        largest = max(float(gradient.abs().max()) for gradient in wanted.values())
        for name, gradient in wanted.items():
            assert torch.allclose(used.get_parameter(name).grad, gradient, rtol=1e-4, atol=1e-6 * largest), name


def test_padding_would_be_heard_without_a_mask(tmp_path: Path) -> None:
    """Otherwise the test above would have nothing to find."""
    folder = KINDS["not masked"](tmp_path / "model")
    given, used = context(folder), load(folder).eval()
    found, _ = prepared(given, tmp_path)
    whole = batch(found, given)
    padded = used(input_values=whole["input_values"]).logits
    apart = objective.by_length(used, whole["lengths"], {"input_values": whole["input_values"]})
    assert (padded[0] - apart[0]).abs().max() < 1e-5 and (padded[1] - apart[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "heard"), [("masked", False), ("not masked", True), ("mask in vain", True), ("spectrograms", False)]
)
def test_who_hears_padding_is_found_out(tmp_path: Path, kind: str, heard: bool) -> None:
    folder = KINDS[kind](tmp_path / "model")
    used, given = load(folder).train(), context(folder)
    state = torch.random.get_rng_state()
    assert objective.hears_padding(used, given.processor) == heard
    assert used.training and torch.equal(torch.random.get_rng_state(), state)


def test_an_embedding_of_masked_frames_has_a_gradient_even_where_none_is_masked(tmp_path: Path) -> None:
    """A process of DDP waits for the gradient of every parameter."""
    folder = tiny_sounds.save(tmp_path / "model", mask_time_prob=0.3, apply_spec_augment=False)
    used, given = load(folder).train(), context(folder)
    found, _ = prepared(given, tmp_path)
    objective.build(used, Classification(), given)(**batch(found, given)).terms["labels"][0].backward()
    assert [name for name, weight in used.named_parameters() if weight.grad is None] == []
    assert not used.wav2vec2.masked_spec_embed.grad.any()


def test_what_is_too_long_is_cut_dropped_or_named(tmp_path: Path) -> None:
    given = context(KINDS["masked"](tmp_path / "model"), max_seconds=0.45)
    found, counts = prepared(given, tmp_path)
    assert counts["rows truncated"] == 2 and len(found) == 6
    assert batch(found, given)["attention_mask"].sum(1).max() == round(0.45 * tiny_sounds.RATE)
    assert max(row["samples"] for row in found) == round(0.45 * tiny_sounds.RATE)
    assert prepared(given, tmp_path, "drop")[1]["rows dropped as too long"] == 2
    for policy, said in {"error": "0.60 seconds, more than 0.45", "split": "cannot be split"}.items():
        with pytest.raises(DataError, match=f"here:0: .*{said}"):
            prepared(given, tmp_path, policy)


def test_a_model_that_hears_the_beginning_alone_says_so(tmp_path: Path) -> None:
    """Its feature extractor would cut without a word."""
    given = context(tiny_sounds.save_ast(tmp_path / "model"))
    tools, path = Tools(given.processor, given.data, "truncate", {}, given.labels), tmp_path / "long.wav"
    soundfile.write(path, tiny_sounds.tone("low", 0.7), tiny_sounds.FILE_RATE)
    (row,) = rows.rows("here", {"audio": str(path), "label": "low"}, tools)
    assert tools.counts["rows truncated"] == 1 and row["samples"] == round(0.655 * 16000)


# --- the whole way -----------------------------------------------------------------------------------------------------

LIKE_BASE = ["optimizer.learning_rate=3e-3", "data.max_seconds=0.5"]


@pytest.fixture(scope="module")
def like_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose model takes no mask, skips layers and masks by chance, as facebook/wav2vec2-base."""
    folder = tmp_path_factory.mktemp("base")
    path = tiny_tasks.make("audio_classification", folder)
    tiny_sounds.save(folder / "base", mask=False, layerdrop=0.3, mask_time_prob=0.3, hidden_dropout=0.1)
    return path


@pytest.fixture(scope="module")
def trained(like_base: Path) -> Path:
    run = like_base.parent / "run"
    words = [f"model.name_or_path={like_base.parent / 'base'}", f"output_dir={run}", *LIKE_BASE]
    assert tiny.train(like_base, *words) == 0
    return run


@pytest.fixture(scope="module")
def two() -> Iterator[Workers]:
    workers = Workers(2)
    yield workers
    workers.close()


def test_a_model_that_draws_trains_the_same_on_two_ranks(
    like_base: Path, trained: Path, two: Workers, tmp_path: Path
) -> None:
    """Micro-batches of one clip each: what is drawn for them does not depend on who has them."""
    words = ["train", str(like_base), f"model.name_or_path={like_base.parent / 'base'}", *LIKE_BASE]
    assert two.run([*words, f"output_dir={tmp_path / 'run'}"], tmp_path / "log") == [0, 0], (
        tmp_path / "log"
    ).read_text()
    assert tiny.losses(tmp_path / "run") == pytest.approx(tiny.losses(trained), rel=1e-4)
    assert "the model has dropout" in (trained / "plan.json").read_text()


def test_a_model_that_draws_goes_on_as_if_it_had_never_stopped(like_base: Path, trained: Path, tmp_path: Path) -> None:
    words = [f"model.name_or_path={like_base.parent / 'base'}", *LIKE_BASE, f"output_dir={tmp_path / 'run'}"]
    assert tiny.train(like_base, *words, "training.max_steps=3") == 0
    assert tiny.train(like_base, *words, "--resume", "auto") == 0
    assert tiny.losses(tmp_path / "run") == tiny.losses(trained)  # floats compared exactly


def test_predictions_are_the_pipeline_s_on_the_export(trained: Path, tmp_path: Path, capsys) -> None:
    from launcher.__main__ import main

    tiny_sounds.in_folders(tmp_path / "new", 6, 40)
    files = sorted((tmp_path / "new").rglob("*.wav"))
    capsys.readouterr()
    assert main(["predict", str(trained), str(files[0]), *map(str, files[1:]), "--batch-size", "4"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["input"] for one in said] == [str(file) for file in files]
    plain = pipeline("audio-classification", str(trained / "export"), device="cpu")
    for file, one in zip(files, said, strict=True):
        content, rate = soundfile.read(file, dtype="float32")
        import soxr

        content = soxr.resample(content[: rate // 2], rate, tiny_sounds.RATE)
        content = np.pad(content, (0, max(0, 1000 - len(content))))
        wanted = plain({"raw": content, "sampling_rate": tiny_sounds.RATE}, top_k=3)
        assert one["scores"] == pytest.approx({each["label"]: each["score"] for each in wanted}, abs=1e-4)


@pytest.mark.usefixtures("proof_in_this_process")
@pytest.mark.parametrize("words", [["model.dtype=bf16", "training.precision=auto"], ["export.dtype=bf16"]])
def test_weights_of_16_bits_are_trained_and_exported(like_base: Path, tmp_path: Path, words: list[str], capsys) -> None:
    from launcher.__main__ import main

    words = [f"model.name_or_path={like_base.parent / 'base'}", "training.max_steps=1", "export.verify=true", *words]
    assert tiny.train(like_base, f"output_dir={tmp_path / 'run'}", *words) == 0
    clip = next((like_base.parent / "eval").rglob("*.wav"))
    assert main(["predict", str(tmp_path / "run"), str(clip)]) == 0


def test_the_evaluation_names_the_clips_that_were_wrong(trained: Path) -> None:
    details = json.loads((trained / "evaluation.json").read_text())
    assert details["confusion_matrix"]["labels"] == ["high", "low", "middle"]
    assert all(error["input"].endswith(".wav") and error["reference"] in error["input"] for error in details["errors"])


def test_a_spoiled_file_stops_the_run_or_is_counted(tmp_path: Path, capsys) -> None:
    path = tiny_tasks.make("audio_classification", tmp_path)
    (tmp_path / "train" / "low" / "broken.wav").write_bytes(b"RIFF")
    words = [f"output_dir={tmp_path / 'run'}", "training.max_steps=1", "evaluation.metrics=[loss]"]
    assert tiny.train(path, *words) == 89
    assert "broken.wav: the sound cannot be read" in capsys.readouterr().err
    assert tiny.train(path, *words, "data.on_error=skip") == 0
    assert "1 rows skipped because they cannot be used" in capsys.readouterr().out


def test_shards_of_normalised_weights_are_refused_before_anything_is_loaded(
    like_base: Path, tmp_path: Path, capsys
) -> None:
    words = [
        f"model.name_or_path={like_base.parent / 'base'}",
        "distributed.strategy=zero3",
        f"output_dir={tmp_path / 'run'}",
    ]
    assert tiny.train(like_base, *words) == 89
    assert "normalised weights" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm"])
def test_weights_that_are_computed_from_others_are_drawn_too(kind: str) -> None:
    """Where memory that nobody wrote into holds NaN."""
    shape = {"model_type": kind, **tiny_sounds.SHAPE, "num_conv_pos_embeddings": 8}
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        made = model.from_random_weights(AutoModelForAudioClassification, model.config_from(shape), "fp32")
    finally:
        torch.use_deterministic_algorithms(False)
    for name, weight in made.named_parameters():
        assert torch.isfinite(weight).all(), name
