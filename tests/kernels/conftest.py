"""How the kernels are run here: PyTorch's way, and the Triton kernels themselves in Triton's interpreter."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import torch

INTERPRETER = "TRITON_INTERPRET"
# One process has either the interpreter or the compiler; which one is settled by the import.
if not torch.cuda.is_available() and importlib.util.find_spec("triton"):
    before = os.environ.get(INTERPRETER)
    os.environ[INTERPRETER] = "1"
    import launcher_kernels.rows_triton  # noqa: F401

    del os.environ[INTERPRETER]
    if before is not None:
        os.environ[INTERPRETER] = before

from launcher_kernels import choice, problem, rows, rows_torch  # noqa: E402


@pytest.fixture(params=["torch", "triton", "triton in a loop"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The test goes through these kernels; blocks are so small that a few rows, or columns, are already several of them."""
    name, _, in_a_loop = request.param.partition(" ")
    monkeypatch.setattr(rows, "FORCED", name)
    monkeypatch.setattr(rows_torch, "BLOCK_BYTES", 1024)
    if name == "triton":
        interpret(monkeypatch, loop_block=16 if in_a_loop else None)
    with quiet():
        yield request.param


@pytest.fixture
def triton_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The Triton kernels only."""
    monkeypatch.setattr(rows, "FORCED", "triton")
    interpret(monkeypatch, loop_block=None)
    with quiet():
        yield


def quiet() -> AbstractContextManager[None]:
    """The interpreter computes with numpy, which warns of inf * 0 in lanes beyond the last column; they are not stored."""
    numpy = pytest.importorskip("numpy")
    return numpy.errstate(invalid="ignore", over="ignore")


def interpret(monkeypatch: pytest.MonkeyPatch, loop_block: int | None) -> None:
    if torch.cuda.is_available():
        pytest.skip("with a GPU the Triton kernels are compiled and run there: pytest -m gpu")
    rows_triton = pytest.importorskip("launcher_kernels.rows_triton", exc_type=ImportError)
    monkeypatch.setenv(INTERPRETER, "1")
    if loop_block is not None:
        monkeypatch.setattr(rows_triton, "ONE_BLOCK", 1)
        monkeypatch.setattr(rows_triton, "LOOP_BLOCK", loop_block)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pieces of 4 rows or 8 classes, or as many as the test says, where a CPU would take thousands."""

    def patch(rows: int = 4, columns: int = 8) -> None:
        monkeypatch.setattr(choice, "CPU_BYTES", 0)
        monkeypatch.setattr(choice, "CPU_ROWS", rows)
        monkeypatch.setattr(choice, "SLICE_BYTES", {"cpu": 0, "cuda": 0})
        monkeypatch.setattr(choice, "LEAST_ROWS", {"cpu": rows, "cuda": rows})
        monkeypatch.setattr(choice, "LEAST_COLUMNS", columns)

    patch()
    return patch


@pytest.fixture
def products_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision is multiplied, and logits are kept, in half precision."""
    for module in (choice, problem):
        monkeypatch.setattr(module, "compute_dtype", lambda dtype, device: dtype)
