"""What a broken recipe is: its text, the one place and the words that its error must begin with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GOOD = """\
task: causal_lm
method: lora
model: {name_or_path: owner/model}
data: {train: [{path: rows.jsonl}], eval: [{path: rows.jsonl}]}
"""  # what a case appends begins on line 5
QLORA = GOOD.replace("lora", "qlora")
LABELLED = """\
task: TASK
method: full
model: {name_or_path: owner/model}
data:
  train: [{path: owner/data}]
  labels: LABELS
"""

DATA_FILES = {
    "rows.jsonl": '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
    "pairs.csv": "question,answer\n1 + 1,2\n",
    "shared.jsonl": '{"conversations": [{"from": "human", "value": "a"}]}\n',
    "book.txt": "Once.\n",
    "list.json": '[{"prompt": "a", "completion": "b"}]',
    "notes.jsonl": "not json\n",
    "empty.jsonl": "",
    "base.yaml": "optimizer: {learning_rate: fast}\n",
    "circle.yaml": "extends: recipe.yaml\n",
}


@dataclass(frozen=True)
class Case:
    """`content` becomes recipe.yaml (a function gets the folder instead); the error is `<recipe.yaml>:where says...`.

    `where` is `line:column`, or empty for the whole file; `file` when the error lies in another one.
    """

    name: str
    content: str | bytes | Callable[[Path], None]
    where: str
    says: str
    overrides: tuple[str, ...] = ()
    file: str = "recipe.yaml"

    def write(self, folder: Path) -> Path:
        """The path of the recipe, after writing it and the data files beside it."""
        for name, text in DATA_FILES.items():
            (folder / name).write_text(text, encoding="utf-8")
        path = folder / "recipe.yaml"
        if callable(self.content):
            self.content(path)
        else:
            path.write_bytes(self.content if isinstance(self.content, bytes) else self.content.encode())
        return path

    def expected(self, folder: Path) -> str:
        """What the error's line begins with; FOLDER in `says` is the recipe's folder."""
        says = self.says.replace("FOLDER", str(folder))
        colon = "" if says.startswith(":") else " "
        if self.where.startswith("command line"):
            return f"{self.where}{colon}{says}"
        place = f"{folder / self.file}:{self.where}" if self.where else f"{folder / self.file}"
        return f"{place}{colon}{says}"


def labelled(labels: str, task: str = "text_classification") -> str:
    return LABELLED.replace("TASK", task).replace("LABELS", labels)


def training_on(source: str) -> str:
    """A good recipe but for its data."""
    return GOOD.replace("train: [{path: rows.jsonl}]", f"train: [{source}]")
