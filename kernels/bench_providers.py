"""Who is compared. A provider that is not installed, or cannot do a case, says so by name and is left out.

All get the same tensors. Only ours is told how many targets count (`n_valid`), which data loaders know; only the plain
product and ours have a way for LoRA on the head, the others get the merged weight.
"""

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
import torch.nn.functional as F
from bench_cases import IGNORED, Case, Inputs
from torch import Tensor

Loss = Callable[[Inputs], Tensor]
LARGE_CHUNK_ROWS = {"cpu": 512, "cuda": 4096}


@dataclass(frozen=True)
class Provider:
    """`build` imports what it needs and returns the loss, for one case."""

    name: str
    build: Callable[[Inputs], Loss]
    distribution: str = "torch"
    module: str = "torch"
    needs_cuda: bool = False
    compiles: bool = False  # at the first call, on a CPU too
    heads: tuple[str, ...] = ("trained", "frozen", "lora")
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    note: Callable[[Inputs], str] | str = ""

    def obstacle(self, case: Case, device: str) -> str | None:
        if importlib.util.find_spec(self.module) is None:
            return f"{self.distribution} is not installed"
        if self.needs_cuda and device != "cuda":
            return "needs a CUDA GPU"
        if self.module == "torch" and "linear_cross_entropy" in self.name and not hasattr(F, "linear_cross_entropy"):
            return f"torch {torch.__version__} has none"
        if case.head not in self.heads:
            return f"is for a {' or '.join(self.heads)} head"
        return None if case.dtype in self.dtypes else f"is for {', '.join(self.dtypes)}"

    def describe(self, inputs: Inputs) -> str:
        return self.note if isinstance(self.note, str) else self.note(inputs)


def versions() -> dict[str, str | None]:
    """None for what is not installed."""
    found = {}
    for name in ("torch", "triton", "liger-kernel", "cut-cross-entropy", "quack-kernels"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


# --- PyTorch ---


def _logits(x: Tensor, weight: Tensor, lora: tuple[Tensor, Tensor, float] | None) -> Tensor:
    logits = x @ weight.t()
    return logits if lora is None else logits + lora[2] * (x @ lora[0].t()) @ lora[1].t()


def _plain(x: Tensor, weight: Tensor | None, target: Tensor, lora: tuple[Tensor, Tensor, float] | None) -> Tensor:
    logits = x if weight is None else _logits(x, weight, lora)
    return F.cross_entropy(logits.float(), target, ignore_index=IGNORED)


def unfused(_: Inputs) -> Loss:
    return lambda i: _plain(i.x, i.weight, i.target, i.lora)


def half_precision_loss(_: Inputs) -> Loss:
    return lambda i: F.cross_entropy(i.x, i.target, ignore_index=IGNORED)


def compiled(_: Inputs) -> Loss:
    torch._dynamo.reset()  # else the eighth case is no longer compiled
    loss = torch.compile(_plain, dynamic=False)
    return lambda i: loss(i.x, i.weight, i.target, i.lora)


def of_torch(large_chunks: bool) -> Callable[[Inputs], Loss]:
    def build(inputs: Inputs) -> Loss:
        rows = LARGE_CHUNK_ROWS[inputs.x.device.type]
        how = {"chunking_method": None, "batch_chunk_size": rows} if large_chunks else {}
        options = torch.nn.LinearCrossEntropyOptions(**how)
        return lambda i: F.linear_cross_entropy(i.x, i.merged_weight(), i.target, ignore_index=IGNORED, options=options)

    return build


def chunk_note(inputs: Inputs) -> str:
    return f"batch_chunk_size={LARGE_CHUNK_ROWS[inputs.x.device.type]}"


# --- peers: Liger 0.8, Cut Cross-Entropy 25.1 and its main branch, QuACK 0.6 ---


def liger(accum_dtype: torch.dtype | None) -> Callable[[Inputs], Loss]:
    def build(_: Inputs) -> Loss:
        from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction as Function

        # input, weight, target, bias, ce_weight, ignore_index, lse_square_scale, label_smoothing, reduction, softcap,
        # return_z_loss, accum_dtype
        rest = (None, None, IGNORED, 0.0, 0.0, "mean", None, False, accum_dtype)
        return lambda i: Function.apply(i.x, i.merged_weight(), i.target, *rest)[0]

    return build


def liger_logits(_: Inputs) -> Loss:
    from liger_kernel.ops.cross_entropy import LigerCrossEntropyFunction as Function

    # _input, target, weight, ignore_index, lse_square_scale, label_smoothing, reduction, softcap, return_z_loss
    return lambda i: Function.apply(i.x, i.target, None, IGNORED, 0.0, 0.0, "mean", None, False)[0]


def cut(exact: bool) -> Callable[[Inputs], Loss]:
    def build(_: Inputs) -> Loss:
        from cut_cross_entropy import linear_cross_entropy

        how = exact_options(linear_cross_entropy) if exact else {"impl": "cce"}
        return lambda i: linear_cross_entropy(i.x, i.merged_weight(), i.target, ignore_index=IGNORED, **how)

    return build


def exact_options(function: Callable) -> dict:
    """`cce_exact` came after 25.1, which can leave the filter out, but adds up in the dtype of the inputs."""
    has_it = "accum_e_fp32" in inspect.signature(function).parameters
    return {"impl": "cce_exact"} if has_it else {"impl": "cce", "filter_eps": None}


def cut_note(_: Inputs) -> str:
    from cut_cross_entropy import linear_cross_entropy

    return ", ".join(f"{name}={value}" for name, value in exact_options(linear_cross_entropy).items())


def quack(one_chunk: bool) -> Callable[[Inputs], Loss]:
    def build(inputs: Inputs) -> Loss:
        from quack.linear_cross_entropy import chunked_linear_cross_entropy

        rows = -(-len(inputs.x) // 128) * 128 if one_chunk else 4096
        return lambda i: chunked_linear_cross_entropy(
            i.x, i.merged_weight(), i.target, chunk_size=rows, ignore_index=IGNORED
        )

    return build


def quack_logits(_: Inputs) -> Loss:
    from quack.cross_entropy import cross_entropy

    return lambda i: cross_entropy(i.x, i.target, ignore_index=IGNORED, reduction="mean", inplace_backward=True)


# --- ours ---


def ours(method: str) -> Callable[[Inputs], Loss]:
    def build(_: Inputs) -> Loss:
        from launcher_kernels import linear_cross_entropy

        return lambda i: (
            linear_cross_entropy(
                i.x, i.weight, i.target, lora=i.lora, ignore_index=IGNORED, n_valid=i.num_valid, method=method
            ).loss
        )

    return build


def ours_logits(inplace: bool) -> Callable[[Inputs], Loss]:
    def build(_: Inputs) -> Loss:
        from launcher_kernels import cross_entropy

        return lambda i: cross_entropy(i.x, i.target, ignore_index=IGNORED, inplace=inplace).loss

    return build


def choice_note(method: str) -> Callable[[Inputs], str]:
    def note(inputs: Inputs) -> str:
        from launcher_kernels import choose

        vocabulary, hidden = inputs.weight.shape
        return str(
            choose(
                inputs.num_valid,
                hidden,
                vocabulary,
                dtype=inputs.x.dtype,
                device=inputs.x.device.type,
                trains_weight=inputs.weight.requires_grad,
                trains_head_otherwise=inputs.lora is not None,
                method=method,
            )
        )

    return note


LIGER = {"distribution": "liger-kernel", "module": "liger_kernel", "needs_cuda": True, "compiles": True}
CUT = {"distribution": "cut-cross-entropy", "module": "cut_cross_entropy", "needs_cuda": True, "compiles": True}
QUACK = {"distribution": "quack-kernels", "module": "quack", "needs_cuda": True, "compiles": True}
OURS = {"distribution": "launcher_kernels", "module": "launcher_kernels"}

LINEAR = [
    Provider("unfused", unfused),
    Provider("torch.compile", compiled, compiles=True),
    Provider("F.linear_cross_entropy", of_torch(large_chunks=False)),
    Provider("F.linear_cross_entropy, large chunks", of_torch(large_chunks=True), note=chunk_note),
    Provider("Liger", liger(None), **LIGER),
    Provider("Liger, fp32 sum", liger(torch.float32), **LIGER),
    Provider("CCE", cut(exact=False), **CUT),
    Provider("CCE exact", cut(exact=True), note=cut_note, **CUT),
    Provider("QuACK", quack(one_chunk=False), note="chunks of 4096 rows", **QUACK),
    Provider("QuACK, one chunk", quack(one_chunk=True), **QUACK),
    Provider("ours", ours("auto"), note=choice_note("auto"), **OURS),
    Provider("ours, recompute", ours("recompute"), note=choice_note("recompute"), **OURS),
    Provider("ours, stream", ours("stream"), heads=("frozen",), note=choice_note("stream"), **OURS),
]
LOGITS = [
    Provider("unfused", unfused, note="F.cross_entropy(logits.float())"),
    Provider("F.cross_entropy", half_precision_loss, dtypes=("bfloat16",), note="softmax rounded to bf16"),
    Provider("torch.compile", compiled, compiles=True),
    Provider("Liger", liger_logits, note="in place", **LIGER),
    Provider("QuACK", quack_logits, note="in place", **QUACK),
    Provider("ours", ours_logits(inplace=False), **OURS),
    Provider("ours, in place", ours_logits(inplace=True), **OURS),
]
