"""What must be equal on all ranks before the first step.

Nodes may hold their own copies of the recipe, the data, the model and the code. Where these differ, the ranks would train
different things under one name, or wait for ever in a collective that others do not enter. Every rank finds the same differences,
so all end with the same error.
"""

import hashlib
import importlib.util
import json
import platform
import secrets
import socket
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from launcher import environment, log, model, processor
from launcher.data.digest import file_digest, weights_digest
from launcher.engine import Engine
from launcher.errors import EnvironmentProblem
from launcher.recipe import Recipe
from launcher.recipe.local_files import DATA, FILES, FOLDERS

PLACES = (*DATA, *FILES, *FOLDERS, "data.cache_dir")  # may differ between nodes; what lies there is compared
OF_A_NODE = ("threads_per_process", "device_memory_bytes")  # nodes may have different numbers of cores, and other cards
HARMLESS = ("python", "datasets", "tokenizers", "safetensors")  # their work shows in the rows, which are compared
SECONDS_TO_APPEAR = 3.0  # some network file systems look again only now and then
HOSTS_SHOWN = 4
FIXES = {
    "code": "install the same on every node",
    "recipe": "start every node with the same recipe, overrides and options",
    "files": "give every node the same files, or keep them on a disk that all nodes share",
    "plan": "the nodes differ in hardware: write the value into the recipe",
}


@dataclass(frozen=True)
class Facts:
    """What one rank has, as names and values."""

    host: str
    code: dict[str, Any]
    harmless: dict[str, Any]
    recipe: dict[str, Any]
    files: dict[str, Any]
    plan: dict[str, Any]


def check(recipe: Recipe, resume: str | None, prepared: Any, engine: Engine) -> None:
    """Compare all ranks. Raises an EnvironmentProblem with every difference: name, values and hosts."""
    if engine.world_size == 1:
        return
    ranks = engine.gather(_facts(recipe, resume, prepared))
    hosts = [facts.host for facts in ranks]
    if prepared.plan.nodes > 1:
        log.say(f"{prepared.plan.nodes} nodes: {_on(hosts, range(len(hosts)))}")
    for line in differences(hosts, [facts.harmless for facts in ranks]):
        log.say(f"note: {line}")
    if problems := problems_of(ranks):
        raise EnvironmentProblem("the ranks do not agree:\n  " + "\n  ".join(problems))


def problems_of(ranks: Sequence[Facts]) -> list[str]:
    """A line for each difference, and behind those of a kind what to do. The plan follows from the rest, so it comes last."""
    hosts = [facts.host for facts in ranks]
    problems: list[str] = []
    for kind, fix in FIXES.items():
        if kind != "plan" or not problems:
            lines = differences(hosts, [getattr(facts, kind) for facts in ranks])
            problems += [*lines, f"-> {fix}"] if lines else []
    return problems


def differences(hosts: Sequence[str], ranks: Sequence[Mapping[str, Any]]) -> list[str]:
    """`seed: 42 on a (rank 0), 7 on b (rank 1)` for each name whose value is not the same on all ranks."""
    lines = []
    for name in dict.fromkeys(name for values in ranks for name in values):
        having: dict[str, list[int]] = defaultdict(list)
        for rank, values in enumerate(ranks):
            having[_shown(values[name]) if name in values else "nothing"].append(rank)
        if len(having) > 1:
            lines.append(f"{name}: " + ", ".join(f"{value} on {_on(hosts, held)}" for value, held in having.items()))
    return lines


def check_shared(folder: Path, engine: Engine) -> None:
    """The run folder must be one for all ranks: rank zero saves there, and all ranks read."""
    if engine.world_size == 1:
        return
    token = folder / f".seen-by-all-{engine.broadcast(secrets.token_hex(8))}"
    if engine.is_main:
        token.touch()
    engine.barrier()
    seen = engine.gather((socket.gethostname(), _appears(token)))
    if engine.is_main:
        token.unlink()
    blind = [rank for rank, (_, appeared) in enumerate(seen) if not appeared]
    if blind:
        hosts = [host for host, _ in seen]
        raise EnvironmentProblem(
            f"the run folder of {_on(hosts, [0])} is another one, or none, on {_on(hosts, blind)}",
            where=str(folder),
            fix="put output_dir on a disk that all nodes share: rank zero saves there, and a resumed run reads it on every rank",
        )


def _facts(recipe: Recipe, resume: str | None, prepared: Any) -> Facts:
    versions = {"launcher": _code(), "python": platform.python_version(), **environment.versions()}
    plan = {name: cell["value"] for name, cell in prepared.plan.as_json()["values"].items() if name not in OF_A_NODE}
    return Facts(
        host=socket.gethostname(),
        code={name: version for name, version in versions.items() if name not in HARMLESS},
        harmless={name: version for name, version in versions.items() if name in HARMLESS},
        recipe={"--resume": resume, **_keys(recipe)},
        files=_files(recipe, prepared),
        plan=plan,
    )


def _code() -> str:
    """Digest of the launcher's own files and its kernels'; found, not imported."""
    kernels = importlib.util.find_spec("launcher_kernels")
    folders = [Path(__file__).parent, *map(Path, (kernels and kernels.submodule_search_locations) or ())]
    files = [(folder, path) for folder in folders for path in sorted(folder.rglob("*.py"))]
    return _digest([[str(path.relative_to(folder)), file_digest(path)] for folder, path in files])


def _keys(recipe: Recipe) -> dict[str, Any]:
    """Dotted key -> value. Dumping does not count as reading (see `Recipe.start_audit`)."""
    leaves = _leaves(recipe.model_dump(mode="json", exclude={"extends"}))
    return {key: value for key, value in leaves if not any(fnmatch(key, place) for place in PLACES)}


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not items:
        yield key, value
    for word, child in items:
        yield from _leaves(child, f"{key}.{word}".lstrip("."))


def _files(recipe: Recipe, prepared: Any) -> dict[str, Any]:
    """What lies at the recipe's paths: rows as prepared, the tokenizer, the model's configuration and weights.

    All ranks could take rank zero's parameters, but not what a quantised layer keeps beside them.
    """
    config = model.load_config(recipe)[0]
    values = {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}
    found = {
        "tokenizer": processor.digest(prepared.processor),
        "model configuration": _digest(values),
        "model revision on the hub": getattr(config, "_commit_hash", None),
        "model weights": weights_digest(recipe.model.name_or_path),
    }
    for which in ("train", "eval"):
        listed, joined = getattr(recipe.data, which), getattr(prepared, which)
        for number, rows in enumerate(joined.sources if joined else ()):
            said = f"{len(rows):,} rows of {Path(listed[number].path).name} ({rows.digest[:12]})"
            found[f"data.{which}.{number}"] = said
    return found


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + SECONDS_TO_APPEAR
    while not (there := path.exists()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return there


def _on(hosts: Sequence[str], ranks: Sequence[int]) -> str:
    """`a (ranks 0, 1), b (rank 2)`."""
    by_host: dict[str, list[int]] = defaultdict(list)
    for rank in ranks:
        by_host[hosts[rank]].append(rank)
    said = [f"{host} (rank{'s' * (len(held) > 1)} {', '.join(map(str, held))})" for host, held in by_host.items()]
    more = len(said) - HOSTS_SHOWN
    return ", ".join(said[:HOSTS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
