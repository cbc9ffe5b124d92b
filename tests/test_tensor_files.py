"""A stream of tensors goes into files of limited size and comes back by name, bit for bit."""

from pathlib import Path

import pytest
import tiny
import torch

from launcher import tensor_files
from launcher.errors import CheckpointError

TENSORS = {
    f"layer.{n}.weight": torch.randn(n + 1, 7).to(dtype) for n, dtype in enumerate([torch.float32, torch.bfloat16] * 6)
}


@pytest.mark.parametrize(("file_bytes", "files"), [(10**9, 1), (500, 4), (1, len(TENSORS))])
def test_what_is_written_comes_back(tmp_path: Path, file_bytes: int, files: int) -> None:
    tensor_files.write(tmp_path / "new", "model", TENSORS.items(), file_bytes)
    written = sorted((tmp_path / "new").glob("*.safetensors"))
    assert len(written) == files
    assert (files == 1) == (written[0].name == "model.safetensors")
    read = {name: value() for name, value in tensor_files.read(tmp_path / "new", "model").items()}
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], TENSORS[name]) and read[name].dtype == TENSORS[name].dtype for name in TENSORS)


def test_transformers_loads_what_is_in_several_files(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    tensor_files.write(tmp_path, "model", model.state_dict().items(), file_bytes=4000)
    model.config.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("file_bytes", [300, 10**9])
def test_a_full_disk_is_an_error_only_after_the_whole_stream(tmp_path: Path, file_bytes: int) -> None:
    """Other ranks take part in gathering every tensor: whoever stops early leaves them waiting."""
    taken = []

    def stream():
        for name, tensor in TENSORS.items():
            taken.append(name)
            yield name, tensor

    with tiny.full_disk(200), pytest.raises(OSError, match="File too large"):
        tensor_files.write(tmp_path, "model", stream(), file_bytes)
    assert taken == list(TENSORS)


def test_another_rank_writes_nothing(tmp_path: Path) -> None:
    tensor_files.write(tmp_path / "nowhere", "model", ((name, None) for name in TENSORS))
    assert not (tmp_path / "nowhere").exists()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    tensor_files.write(tmp_path, "model", TENSORS.items())
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        tensor_files.read(tmp_path, "model")
    with pytest.raises(CheckpointError, match=r"other\.safetensors"):
        tensor_files.read(tmp_path, "other")
