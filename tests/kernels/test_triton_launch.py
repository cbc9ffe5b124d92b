"""That it is the Triton kernel which runs, and that the compiler takes it, since most tests here only interpret it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import classes, draw, head, run
from launcher_kernels import cross_entropy, linear_cross_entropy, rows

COMPILE = """
import json, re, subprocess, sys
from pathlib import Path
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from launcher_kernels.rows_triton import launch_shape, softmax_rows

PLAIN = dict(SOFTCAP=None, SMOOTHS=False, SQUARES=False, WANTS_ARGMAX=False, WANTS_ENTROPY=False, TAKES_STATS=True,
             TAKES_GRADIENT=True, weighted=False)
ALL = PLAIN | dict(SOFTCAP=30.0, SMOOTHS=True, SQUARES=True, WANTS_ARGMAX=True, WANTS_ENTROPY=True, weighted=True)
CHANGES = {"plain": PLAIN, "all": ALL, "stats": ALL | dict(TAKES_GRADIENT=False), "gradient": ALL | dict(TAKES_STATS=False),
           "argmax": PLAIN | dict(WANTS_ARGMAX=True)}

def build(dtype, columns, weighted, **options):
    block, is_one, warps = launch_shape(columns)
    precision, of_rows = (tl.float64, "*fp64") if dtype == "fp64" else (tl.float32, "*fp32")
    constants = options | dict(SCALE=1.0, PRECISION=precision, BLOCK=block, IS_ONE_BLOCK=is_one, ROUNDS_BY_HAND=False)
    types = dict(z="*" + dtype, out="*" + dtype, label_of="*i64", coefficients=of_rows, stats=of_rows, class_weight=of_rows)
    if not weighted:
        constants["class_weight"] = None
    names = softmax_rows.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    at = {(names.index(name),): value for name, value in constants.items()}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in ("z", "out", "z_stride", "out_stride", "columns")}
    source = ASTSource(fn=softmax_rows, signature=signature, constexprs=at, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})

def stack_bytes(cubin):
    tool, file = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump", Path("kernel.cubin")
    if not tool.exists():
        return None
    file.write_bytes(cubin)
    usage = subprocess.run([tool, "--dump-resource-usage", file], capture_output=True, text=True).stdout
    return int(re.search(r"STACK:(\\d+)", usage)[1])

for line in sys.stdin:
    dtype, columns, change = json.loads(line)
    built = build(dtype, columns, **CHANGES[change])
    print(json.dumps({"case": [dtype, columns, change], "stack": stack_bytes(built.asm["cubin"]), "ttir": built.asm["ttir"]}))
"""
SMALL, MIDDLE, LARGE = 1000, 32_000, 128_256
COMPILED = [
    *((dtype, columns, "all") for dtype in ("bf16", "fp16", "fp32", "fp64") for columns in (SMALL, LARGE)),
    *((dtype, columns, "plain") for dtype in ("bf16", "fp16") for columns in (SMALL, MIDDLE, LARGE)),
    *(("bf16", columns, change) for columns in (SMALL, LARGE) for change in ("stats", "gradient", "argmax")),
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """{(dtype, columns, options): what the compiler made of it for an H200}. A process of its own: this one may only interpret."""
    pytest.importorskip("triton")
    folder = tmp_path_factory.mktemp("compiled")
    paths = {"PYTHONPATH": str(Path(rows.__file__).parents[1]), "TRITON_CACHE_DIR": str(folder / "cache")}
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | paths
    lines = "\n".join(json.dumps(case) for case in COMPILED)
    command = [sys.executable, "-W", "ignore", "-c", COMPILE]
    result = subprocess.run(command, env=environment, input=lines, capture_output=True, text=True, cwd=folder)
    assert result.returncode == 0, result.stderr
    return {tuple(found["case"]): found for found in map(json.loads, result.stdout.splitlines())}


@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_the_compiler_takes_the_kernel(case, compiled):
    """And what training uses stays in registers."""
    assert case[0] == "fp64" or compiled[case]["stack"] in (0, None)


@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_rows_are_found_by_64_bit_numbers(case, compiled):
    """The number of the row is made 64 bits wide before anything is multiplied with it."""
    ttir = compiled[case]["ttir"]
    (row,) = (line.split(" = ")[0].strip() for line in ttir.splitlines() if "tt.get_program_id x" in line)
    uses = [
        line
        for line in ttir.splitlines()
        if f"{row} " in line.partition("=")[2] + " " or f"{row}," in line.partition("=")[2]
    ]
    assert uses and all("arith.extsi" in line and "i32 to i64" in line for line in uses)


@pytest.mark.parametrize("case", [case for case in COMPILED if case[2] in ("plain", "argmax", "all")], ids=str)
def test_the_target_is_read_before_its_gradient_is_written(case, compiled):
    """In place, a fast warp would otherwise overwrite it under a slow one: the first reduction is where all wait."""
    lines = compiled[case]["ttir"].splitlines()
    first = next(i for i, line in enumerate(lines) if '"tt.reduce"' in line)
    element = {"fp16": "f16", "fp32": "f32", "fp64": "f64"}.get(case[0], case[0])
    of_one_logit = [
        i
        for i, line in enumerate(lines)
        if "tt.load" in line and line.split(" loc(")[0].endswith(f": !tt.ptr<{element}>")
    ]
    assert min(of_one_logit) < first


@pytest.fixture
def launches(monkeypatch, triton_kernels):
    """(rows, takes stats, takes gradient) of each launch of the kernel."""
    from launcher_kernels import rows_triton

    class Recorded:
        def __init__(self):
            self.seen = []

        def __getitem__(self, grid):
            def launch(*args, **options):
                self.seen.append((*grid, options["TAKES_STATS"], options["TAKES_GRADIENT"]))
                return kernel[grid](*args, **options)

            return launch

    kernel, recorded = rows_triton.softmax_rows, Recorded()
    monkeypatch.setattr(rows_triton, "softmax_rows", recorded)
    return recorded.seen


@pytest.mark.parametrize("inplace", [False, True])
def test_logits_are_one_launch(inplace, launches):
    run(
        lambda logits, **rest: cross_entropy(logits * 1, **rest),
        {"logits": draw(5, 13)},
        classes(5, 13),
        inplace=inplace,
    )
    assert launches == [(5, True, True)]


def test_evaluation_takes_stats_only(launches):
    cross_entropy(draw(5, 13).detach(), classes(5, 13))
    assert launches == [(5, True, False)]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("chunk", [(4, True, True), (3, True, True)]),
        ("recompute", [(7, True, False)] * 4 + [(7, False, True)] * 4),
        ("stream", [(7, True, False), (7, False, True)] * 4),
    ],
)
def test_launches_of_the_methods(method, expected, launches, small_pieces):
    tensors = head(7)
    if method == "stream":
        tensors = {name: t.requires_grad_(name == "x") for name, t in tensors.items()}
    run(linear_cross_entropy, tensors, classes(7, 29), method=method)
    assert launches == expected


def test_pytorch_takes_over_without_a_gpu():
    pytest.importorskip("triton")
    assert rows.FORCED is None
    assert rows.backend(torch.device("cpu")).__name__ == "launcher_kernels.rows_torch"
    assert rows.backend(torch.device("cuda")).__name__ == "launcher_kernels.rows_triton"
