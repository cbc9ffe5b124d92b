"""What is measured: shapes, in the order of their importance, and the numbers in the tensors."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

IGNORED = -100
LORA_RANK, LORA_SCALE = 16, 2.0
NOISE = 2.0  # standard deviation of the logits beside the target's, about what trained models have


@dataclass(frozen=True)
class Case:
    """One comparison. `head` is trained, frozen or lora; `hidden` is 0 where the logits are the input."""

    rows: int
    hidden: int
    vocabulary: int
    dtype: str = "bfloat16"
    head: str = "trained"
    ignored: float = 0.0  # share of the rows
    data: str = "peaked"
    model: str = ""  # that has this shape
    compiled: bool = False  # whether torch.compile takes part; it takes longer than all the rest
    error_rows: int | None = None  # of a call of its own, in which errors are measured; None: the call that is timed

    @property
    def name(self) -> str:
        shape = (
            f"{self.rows} x {self.hidden} x {self.vocabulary}"
            if self.hidden
            else f"logits {self.rows} x {self.vocabulary}"
        )
        parts = [f"{shape} {self.dtype}", f"{self.head} head" if self.hidden else "", self.data, self.model]
        parts.insert(2, f"{self.ignored:.0%} ignored" if self.ignored else "")
        return ", ".join(part for part in parts if part)

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)


@dataclass(frozen=True)
class Preset:
    """`seconds` is the default budget; a case repeats its rounds for `seconds_per_case`, between `least` and `most` of them."""

    cases: list[Case]
    seconds: float | None
    seconds_per_case: float
    least: int
    most: int
    patience: float = math.inf  # whoever takes this many times as long as unfused is timed once, not in every round


@dataclass(frozen=True)
class Inputs:
    """Tensors of one case. `x` is (N, H), or (N, V) logits where there is no weight; lora is A (r, H), B (V, r) and a factor."""

    x: Tensor
    weight: Tensor | None
    target: Tensor
    num_valid: int
    lora: tuple[Tensor, Tensor, float] | None = None

    def trained(self) -> dict[str, Tensor]:
        named = {"x": self.x, "weight": self.weight} | dict(zip("AB", self.lora or (), strict=False))
        return {name: tensor for name, tensor in named.items() if tensor is not None and tensor.requires_grad}

    def merged_weight(self) -> Tensor:
        """What a loss without LoRA is given: it makes the gradient of the whole head on the way to A and B."""
        if self.lora is None:
            return self.weight
        a, b, scale = self.lora
        return self.weight + scale * (b @ a)

    def fresh(self) -> "Inputs":
        """Logits may be overwritten by who is measured, and must then not be a leaf."""
        return self if self.weight is not None else replace(self, x=self.x.clone())

    def first(self, rows: int) -> "Inputs":
        target = self.target[:rows]
        x = self.x.detach()[:rows].requires_grad_()
        return replace(self, x=x, target=target, num_valid=int((target != IGNORED).sum()))


def make(case: Case, device: str) -> Inputs:
    """The same numbers every time on the same device."""
    random = torch.Generator(device).manual_seed(0)
    target = torch.randint(case.vocabulary, (case.rows,), generator=random, device=device)
    if case.hidden:
        x, weight = _hidden_states(case, target, random)
    else:
        x, weight = _logits(case, target, random), None
    _ignore(target, case)
    lora = _lora(case, random) if case.head == "lora" else None
    if weight is not None:
        weight.requires_grad_(case.head == "trained")
    return Inputs(x.requires_grad_(), weight, target, int((target != IGNORED).sum()), lora)


def _hidden_states(case: Case, target: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Peaked: x points to its target's row of the head, so far that half of the targets have a probability above 1/2."""
    weight = torch.randn(case.vocabulary, case.hidden, generator=random, device=random.device) / case.hidden**0.5
    x = torch.randn(case.rows, case.hidden, generator=random, device=random.device)
    if case.data == "peaked":
        own = torch.nn.functional.normalize(weight[target], dim=1)
        x = NOISE * x + _peak(case.vocabulary, case.hidden) * own
    return x.to(case.torch_dtype), weight.to(case.torch_dtype)


def _peak(vocabulary: int, hidden: int) -> float:
    """The logit s with e^s = V E[e^other], where the others are normal with variance NOISE^2 + s^2 / H."""
    without_own_share = math.log(vocabulary) + NOISE**2 / 2
    return hidden * (1 - math.sqrt(max(0.0, 1 - 2 * without_own_share / hidden)))


def _logits(case: Case, target: Tensor, random: torch.Generator) -> Tensor:
    logits = torch.randn(case.rows, case.vocabulary, generator=random, device=random.device, dtype=case.torch_dtype)
    if case.data == "peaked":
        rise = math.log(case.vocabulary) + NOISE**2 / 2
        logits.mul_(NOISE)[torch.arange(case.rows, device=random.device), target] += rise
    return logits


def _lora(case: Case, random: torch.Generator) -> tuple[Tensor, Tensor, float]:
    def draw(rows: int, columns: int) -> Tensor:
        values = torch.randn(rows, columns, generator=random, device=random.device) * 0.1 / columns**0.5
        return values.to(case.torch_dtype).requires_grad_()

    return draw(LORA_RANK, case.hidden), draw(case.vocabulary, LORA_RANK), LORA_SCALE


def _ignore(target: Tensor, case: Case) -> None:
    """Runs of rows, as prompts are: the first part of every eighth of the batch."""
    run = max(1, case.rows // 8)
    place = torch.arange(case.rows, device=target.device) % run
    target[place < case.ignored * run] = IGNORED


def _small_and_large() -> list[Case]:
    """Large cases are of interest for their vocabulary; in fp64, all their rows would take longer than all that is timed."""
    small = Case(4096, 512, 32_000, "float32")
    large = Case(2048, 1024, 151_936, "float32", error_rows=128)
    logits = Case(2048, 0, 32_000, "float32", compiled=True)

    def variants(case: Case) -> list[Case]:
        return [case, replace(case, head="frozen"), replace(case, ignored=0.5)]

    def bf16(cases: list[Case]) -> list[Case]:
        return [replace(case, dtype="bfloat16") for case in cases]

    first = [replace(small, compiled=True), *variants(small)[1:], logits, large, *bf16(variants(small))]
    return [*first, *variants(large)[1:], *bf16([logits]), *bf16(variants(large))]


def _gpu() -> list[Case]:
    llama = Case(8192, 4096, 128_256, model="Llama-3 8B")
    first = [replace(llama, compiled=True), replace(llama, head="frozen", compiled=True)]
    first += [replace(llama, ignored=0.5), replace(llama, data="random")]
    logits = [Case(8192, 0, v, d) for v, d in ((128_256, "bfloat16"), (32_000, "bfloat16"), (128_256, "float32"))]
    shapes = [
        Case(8192, 4096, 151_936, model="Qwen3 8B"),
        Case(8192, 2304, 256_000, model="Gemma 2 2B, without its cap"),
        Case(8192, 4096, 32_000, model="Llama-2 7B"),
        replace(llama, head="lora"),
        *(replace(llama, rows=rows) for rows in (2048, 16_384)),
        Case(8192, 1024, 151_936, model="Qwen3 0.6B"),
        Case(8192, 640, 262_144, model="Gemma 3 270M"),
        replace(llama, rows=2048, dtype="float32"),
        Case(8192, 8192, 152_064, model="Qwen2.5 72B"),
        *(replace(llama, rows=rows) for rows in (1024, 4096, 65_536)),
        replace(llama, data="random", head="frozen"),
    ]
    more_logits = [Case(8192, 0, v) for v in (50_304, 102_400, 152_064, 262_144)]
    return [*first, replace(logits[0], compiled=True), *logits[1:], *shapes, *more_logits]


def _smoke() -> list[Case]:
    tiny = Case(96, 32, 320, "float32")
    variants = [tiny, replace(tiny, head="frozen"), replace(tiny, ignored=0.5), replace(tiny, head="lora")]
    return [*variants, replace(tiny, dtype="bfloat16", data="random"), Case(64, 0, 320, "float32")]


PRESETS = {
    "cpu": Preset(_small_and_large(), 460, seconds_per_case=20, least=2, most=5, patience=4),
    "gpu": Preset(_gpu(), 600, seconds_per_case=8, least=5, most=20),
    "smoke": Preset(_smoke(), None, seconds_per_case=1, least=3, most=3),
}
