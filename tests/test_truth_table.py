"""SUPPORT.md holds: what it refuses is refused with a reason, and what it calls trained trains like one process.

Every combination that is refused or needs hardware is tried. Of those that train, a set is run in which every combination of three
choices occurs, in two ranks that stay; `make test` runs a sample of it, `make test-all` the whole.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import covering
import pytest
import tiny
from workers import Workers

from launcher import plan, support, support_table
from launcher import recipe as recipes
from launcher.errors import RecipeError, RecipeErrors
from launcher.support import CHOICES, Combination
from launcher.support_table import NEEDS, REFUSED, TRAINED, verdict
from launcher.world import World

ROOT = Path(__file__).parent.parent
BY_VERDICT: dict[str, list[Combination]] = {name: [] for name in (TRAINED, NEEDS, REFUSED)}
for each in support_table.combinations():
    BY_VERDICT[verdict(each)[0]].append(each)


def row(combination: Combination) -> tuple[str, ...]:
    return tuple(getattr(combination, name) for name in CHOICES)


COVERING = covering.cover([row(each) for each in BY_VERDICT[TRAINED]])
SAMPLE = COVERING[:: max(1, len(COVERING) // 10)]
STEPS = 4
CHECKPOINTING = {
    "off": [],
    "every layer": ["training.gradient_checkpointing=true"],
    "every second layer": ["training.gradient_checkpointing=true", "training.gradient_checkpointing_interval=2"],
    "offloaded": ["training.gradient_checkpointing=true", "training.activation_offloading=true"],
}


def words(combination: Combination) -> list[str]:
    """The combination as overrides of the tiny recipe."""
    c = combination
    said = [f"method={c.method}", f"distributed.strategy={c.strategy}", f"training.precision={c.precision}"]
    said += [f"data.packing={'true' if c.packing == 'on' else 'false'}", *CHECKPOINTING[c.activation_checkpointing]]
    if c.method == "full":
        said.append("adapter=null")
    if c.quantization != "none":
        said += [
            f"quantization.bits={8 if c.quantization == 'int8' else 4}",
            f"quantization.quant_type={c.quantization}",
        ]
    return said


# --- the table -------------------------------------------------------------------------------------------------------


def test_the_page_is_what_the_rules_say() -> None:
    assert (ROOT / "SUPPORT.md").read_text() == support_table.page(), "write it anew: launcher support > SUPPORT.md"


def test_every_combination_of_three_choices_occurs_in_the_runs() -> None:
    """Counted without the code that chose the runs."""
    names = list(CHOICES)
    for three in combinations(names, 3):
        wanted = {tuple(getattr(c, name) for name in three) for c in BY_VERDICT[TRAINED]}
        found = {tuple(run[names.index(name)] for name in three) for run in COVERING}
        assert wanted == found, three
    assert len(COVERING) < len(BY_VERDICT[TRAINED]) / 2


def test_a_recipe_is_the_combination_that_was_written(recipe: Path) -> None:
    for combination in BY_VERDICT[TRAINED]:
        assert Combination.of(recipes.load(recipe, words(combination))) == combination


def test_all_that_is_refused_is_refused_at_a_line_with_a_reason(recipe: Path) -> None:
    for combination in BY_VERDICT[REFUSED]:
        with pytest.raises(RecipeErrors) as caught:
            recipes.load(recipe, words(combination))
        said = "\n".join(caught.value.problems)
        for rule in support.refusals(combination):
            assert f"{rule.key}: " in said and f"{rule.reason}; {rule.instead}" in said, combination


def test_what_needs_hardware_is_refused_here_and_planned_for_where_it_is(recipe: Path) -> None:
    for combination in BY_VERDICT[NEEDS]:
        loaded = recipes.load(recipe, words(combination))
        size = 1 if combination.strategy == "none" else 2
        with pytest.raises(RecipeError, match="there is no GPU"):
            plan.make(loaded, World(1, size, "cpu", True), None, None)
        assert plan.make(loaded, World(1, size, "cuda", True), None, None).device == "cuda"


# --- the runs --------------------------------------------------------------------------------------------------------


class Runs:
    """Combinations trained, each once, and the single process that each is compared with."""

    def __init__(self, recipe: Path, folder: Path):
        self.recipe, self.folder = recipe, folder
        self._ranks = {world: Workers(world) for world in (1, 2)}
        self._made: dict[Combination, Path] = {}

    def of(self, combination: Combination) -> Path:
        if combination not in self._made:
            out = self.folder / "-".join(row(combination)).replace(" ", "-")
            world = 1 if combination.strategy == "none" else 2
            command = ["train", str(self.recipe), *words(combination), f"output_dir={out}"]
            command += [f"training.max_steps={STEPS}", "training.global_batch_size=4", "evaluation.metrics=[loss]"]
            codes = self._ranks[world].run(command, out.with_suffix(".log"))
            assert codes == [0] * world, out.with_suffix(".log").read_text()[-3000:]
            self._made[combination] = out
        return self._made[combination]

    def close(self) -> None:
        for ranks in self._ranks.values():
            ranks.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """On a model as wide as a block of four-bit numbers."""
    folder = tmp_path_factory.mktemp("truth")
    made = Runs(tiny.make(folder, hidden_size=64, intermediate_size=128, num_hidden_layers=4), folder)
    yield made
    made.close()


LOSSES, NORMS = ("train/loss", "eval/loss"), ("train/grad_norm",)
ROUNDING = {LOSSES: 1e-5, NORMS: 1e-4}  # how far fp32 may move them
# In 16 bits both sides are off the exact value, each by what the precision costs: norms show the whole of it, losses less.
COSTS = {LOSSES: 1, NORMS: 2}


def difference(a: Path, b: Path, metrics: tuple[str, ...]) -> float:
    """The largest relative difference in any step."""
    found = []
    for metric in metrics:
        first, second = tiny.losses(a, metric), tiny.losses(b, metric)
        assert first.keys() == second.keys() and len(first) >= 2
        found += [abs(first[step] / second[step] - 1) for step in first]
    return max(found)


def check(runs: Runs, combination: Combination) -> None:
    """Losses and norms are those of one process that recomputes nothing: to rounding, or to less than the precision costs."""
    single = dataclasses.replace(combination, strategy="none", activation_checkpointing="off")
    exact = dataclasses.replace(single, precision="fp32")
    for metrics, allowed in ROUNDING.items():
        if combination.precision != "fp32":
            allowed += COSTS[metrics] * difference(runs.of(single), runs.of(exact), metrics)
        found = difference(runs.of(combination), runs.of(single), metrics)
        assert found <= allowed, f"{metrics} {found:.2g} off, {allowed:.2g} allowed"


@pytest.mark.parametrize("chosen", SAMPLE, ids=lambda chosen: "-".join(chosen).replace(" ", "_"))
def test_a_combination_trains_like_one_process(runs: Runs, chosen: tuple[str, ...]) -> None:
    check(runs, Combination(**dict(zip(CHOICES, chosen, strict=True))))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_run_of_the_covering_set_trains_like_one_process(runs: Runs, tmp_path: Path) -> None:
    failed = []
    for chosen in COVERING:
        try:
            check(runs, Combination(**dict(zip(CHOICES, chosen, strict=True))))
        except AssertionError as error:
            failed.append(f"{chosen}: {str(error).splitlines()[0]}")
    counts = Counter({name: len(found) for name, found in BY_VERDICT.items()})
    print(json.dumps({**counts, "run": len(COVERING), "failed": len(failed)}))
    assert not failed, "\n".join(failed)
