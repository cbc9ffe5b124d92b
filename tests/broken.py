"""Broken recipes, each with the one place and the words that its error must begin with.

The same table is run through `recipe.load` and through the command line.
"""

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

DATA_FILES = {
    "rows.jsonl": '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
    "pairs.csv": "question,answer\n1 + 1,2\n",
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


def _data(source: str) -> str:
    return GOOD.replace("train: [{path: rows.jsonl}]", f"train: [{source}]")


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]\n" for below, name in zip("abcdef", "bcdefg", strict=True)
)

BROKEN = [
    # the file
    Case("missing file", lambda path: None, "", ": there is no such recipe"),
    Case("directory", lambda path: path.mkdir(), "", ": is a folder, not a recipe file"),
    Case("empty", "", "", ": is empty; a recipe needs at least task"),
    Case("comments only", "# later\n", "", ": is empty"),
    Case("not UTF-8", b"task: causal_lm\nname: caf\xe9\n", "2:10", ": byte 0xe9 is not UTF-8"),
    Case("UTF-16", GOOD.encode("utf-16"), "1:1", ": byte 0xff is not UTF-8"),
    Case("control character", GOOD + "name: a\x00b\n", "5:8", ": the character U+0000 is not allowed in YAML"),
    Case("a list", "- task: causal_lm\n", "1:1", ": a recipe must be a mapping"),
    Case("a sentence", "train my model\n", "1:1", ": a recipe must be a mapping"),
    Case("two documents", GOOD + "---\nseed: 1\n", "5:1", ": a second document"),
    # YAML
    Case("tab", GOOD + "training:\n\tmax_steps: 3\n", "6:1", ": a tab; YAML is indented with spaces"),
    Case("colon in value", GOOD + "name: a: b\n", "5:8", ": a `: ` inside a value"),
    Case("bad indentation", GOOD + "training:\n    max_steps: 3\n  seed: 1\n", "7:3", ": not YAML: the indentation"),
    Case("open bracket", GOOD + "logging: {trackers: [jsonl}\n", "5:27", ": not YAML: a list in [ ] is not closed"),
    Case("open quote", GOOD + 'name: "a\n', "6:1", ": not YAML: a quote is not closed"),
    Case("no colon", GOOD + "seed\n", "6:1", ": not YAML: a `:` is missing"),
    Case("duplicate key", GOOD + "seed: 1\nseed: 2\n", "6:1", ": the key seed is given twice; the first is at "),
    Case("tag", GOOD + "seed: !!python/name:os.system 1\n", "5:7", ": the tag tag:yaml.org,2002:python/name:os.system"),
    Case("harmless tag", GOOD + "name: !!str 1\n", "5:7", ": the tag tag:yaml.org,2002:str"),
    Case("merge key", GOOD + "training:\n  <<: {max_steps: 3}\n", "6:3", ": merge keys (<<) are refused; start from"),
    Case("alias bomb", BOMB + GOOD, "5:4", ": more than 20000 values once the aliases are written out"),
    Case("alias in itself", GOOD + "stages: &s [*s]\n", "5:9", ": this anchor contains itself"),
    Case("unknown alias", GOOD + "seed: *s\n", "5:7", ": not YAML: found undefined alias"),
    Case("deep", GOOD + "stages: " + "[" * 500 + "]" * 500, "5:68", ": more than 60 levels"),
    Case("number as key", GOOD + "1: 2\n", "5:1", ": the key 1 is not text"),
    Case("list as key", GOOD + "? [a]\n: 1\n", "5:3", ": a key must be a name"),
    Case("digits", GOOD + "seed: " + "9" * 5000, "5:7", ": a number of too many digits"),
    # keys
    Case(
        "misspelt option",
        GOOD + "optimizer:\n  lerning_rate: 1e-4\n",
        "6:3",
        "optimizer.lerning_rate is not an option of adamw; did you mean learning_rate?",
    ),
    Case(
        "misspelt section",
        GOOD + "trainig: {}\n",
        "5:1",
        "trainig is not an option of a recipe; did you mean training?",
    ),
    Case("other case", GOOD + "Seed: 1\n", "5:1", "Seed is not an option of a recipe; did you mean seed?"),
    Case("hyphen", GOOD + "data-x: 1\n", "5:1", "data-x is not an option of a recipe; did you mean data?"),
    Case(
        "key of another section",
        GOOD + "learning_rate: 1e-4\n",
        "5:1",
        "learning_rate is not an option of a recipe; did you mean optimizer.learning_rate?",
    ),
    Case(
        "key of another section, nested",
        GOOD + "training: {weight_decay: 0.1}\n",
        "5:12",
        "training.weight_decay is not an option of training; did you mean optimizer.weight_decay?",
    ),
    Case(
        "key of another section, like one of its own",
        GOOD + "checkpoint: {logging_steps: 5}\n",
        "5:14",
        "checkpoint.logging_steps is not an option of checkpoint; did you mean logging.logging_steps?",
    ),
    Case(
        "key in a list",
        _data("{path: rows.jsonl, wieght: 2}"),
        "4:35",
        "data.train.0.wieght is not an option of data.train; did you mean weight?",
    ),
    Case(
        "option of another optimizer",
        GOOD + "optimizer: {momentum: 0.9}\n",
        "5:13",
        "optimizer.momentum is not an option of adamw; it is one of muon, sgd (optimizer.name)",
    ),
    Case(
        "adapter key under full",
        GOOD.replace("lora", "full") + "adapter: {r: 8}\n",
        "5:11",
        "adapter.r is not an option of full; it is one of lora, qlora",
    ),
    Case(
        "nothing like it",
        GOOD + "export: {zzz: 1}\n",
        "5:10",
        "export.zzz is not an option of export; it has merge, dtype, verify",
    ),
    # other launchers' spellings
    Case("lora_r", GOOD + "lora_r: 8\n", "5:1", "lora_r is not an option of a recipe; did you mean adapter.r?"),
    Case(
        "lora_rank",
        GOOD + "adapter: {lora_rank: 8}\n",
        "5:11",
        "adapter.lora_rank is not an option of lora; did you mean r?",
    ),
    Case(
        "micro_batch_size",
        GOOD + "training: {micro_batch_size: 8}\n",
        "5:12",
        "training.micro_batch_size is not an option of training; did you mean per_device_train_batch_size?",
    ),
    Case(
        "cutoff_len",
        GOOD + "cutoff_len: 8\n",
        "5:1",
        "cutoff_len is not an option of a recipe; did you mean data.max_length?",
    ),
    Case(
        "base_model",
        GOOD.replace("model: {name_or_path: owner/model}", "base_model: owner/model"),
        "3:1",
        "base_model is not an option of a recipe; did you mean model.name_or_path?",
    ),
    Case(
        "bf16",
        GOOD + "bf16: true\n",
        "5:1",
        "bf16 is not an option of a recipe; did you mean training.precision: bf16?",
    ),
    Case(
        "output_dir below",
        GOOD + "training: {output_dir: x}\n",
        "5:12",
        "training.output_dir is not an option of training; did you mean output_dir at the top of the recipe?",
    ),
    # types
    Case(
        "text for a number",
        GOOD + "optimizer: {learning_rate: fast}\n",
        "5:28",
        'optimizer.learning_rate: must be a number above 0, not "fast"',
    ),
    Case(
        "quoted number",
        GOOD + 'optimizer: {learning_rate: "1e-4"}\n',
        "5:28",
        'optimizer.learning_rate: must be a number above 0, not "1e-4"; remove the quotes',
    ),
    Case(
        "underscores",
        GOOD + "seed: 1_000\n",
        "5:7",
        'seed: must be a whole number of at least 0, not "1_000"; write 1000',
    ),
    Case(
        "yes for true",
        GOOD + "export: {merge: yes}\n",
        "5:17",
        'export.merge: must be true or false, not "yes"; write true',
    ),
    Case(
        "off", GOOD + "export: {verify: off}\n", "5:18", 'export.verify: must be true or false, not "off"; write false'
    ),
    Case("true for a number", GOOD + "seed: true\n", "5:7", "seed: must be a whole number of at least 0, not true"),
    Case("one for true", GOOD + "export: {merge: 1}\n", "5:17", "export.merge: must be true or false, not 1"),
    Case("half a seed", GOOD + "seed: 1.5\n", "5:7", "seed: must be a whole number of at least 0, not 1.5"),
    Case("float for int", GOOD + "seed: 2.0\n", "5:7", "seed: must be a whole number of at least 0, not 2.0; write 2"),
    Case(
        "number for text",
        GOOD + "name: 12\n",
        "5:7",
        'name: must be text that is not empty, not 12; put it in quotes: "12"',
    ),
    Case(
        "not a number",
        GOOD + "training: {max_grad_norm: .nan}\n",
        "5:27",
        "training.max_grad_norm: must be a number above 0",
    ),
    Case("infinite", GOOD + "optimizer: {eps: 1e999}\n", "5:18", "optimizer.eps: must be a number above 0, not inf"),
    Case(
        "no list",
        GOOD + "logging: {trackers: jsonl}\n",
        "5:21",
        'logging.trackers: must be a list, each item text, not "jsonl"; write [jsonl]',
    ),
    Case("no mapping", GOOD + "training: 3\n", "5:11", "training: must be a mapping of keys to values, not 3"),
    Case(
        "optimizer by name only",
        GOOD + "optimizer: sgd\n",
        "5:12",
        'optimizer: must be a mapping of keys to values, not "sgd"',
    ),
    Case(
        "source by path only",
        _data("rows.jsonl"),
        "4:16",
        'data.train.0: must be a mapping of keys to values, not "rows.jsonl"',
    ),
    Case("optimizer without a name", GOOD + "optimizer: {name: 3}\n", "5:19", "optimizer.name: must be text, not 3"),
    Case(
        "one source",
        GOOD.replace("[{path: rows.jsonl}]}", "{path: a}}"),
        "4:43",
        "data.eval: must be a list, each item a",
    ),
    Case(
        "dots",
        GOOD + "optimizer.eps: 1\n",
        "5:1",
        "optimizer.eps is written with dots on the command line only; here write optimizer: {eps: ...}",
    ),
    Case("no value", GOOD + "seed:\n", "5:6", "seed: must be a whole number of at least 0, not null"),
    Case("missing task", GOOD.replace("task: causal_lm\n", ""), "1:1", "task: is missing; available: causal_lm"),
    Case("missing path", _data("{weight: 1}"), "4:16", "data.train.0.path: is missing"),
    # ranges and choices
    Case(
        "zero",
        GOOD + "training: {max_steps: 0}\n",
        "5:23",
        "training.max_steps: must be a whole number of at least 1, or null, not 0",
    ),
    Case(
        "betas",
        GOOD + "optimizer: {betas: [0.9, 1]}\n",
        "5:26",
        "optimizer.betas.1: must be a number of at least 0 and below 1, not 1",
    ),
    Case(
        "three betas",
        GOOD + "optimizer: {betas: [0, 0, 0]}\n",
        "5:20",
        "optimizer.betas: must be a list of 2, each a number",
    ),
    Case(
        "true for steps", GOOD + "scheduler: {warmup_steps: true}\n", "5:27", "scheduler.warmup_steps: must be a whole"
    ),
    Case(
        "keep one",
        GOOD + "checkpoint: {save_total_limit: 1}\n",
        "5:32",
        "checkpoint.save_total_limit: must be a whole number of at least 2, not 1",
    ),
    Case(
        "share above one",
        GOOD + "scheduler: {warmup_steps: 1.5}\n",
        "5:27",
        "scheduler.warmup_steps: must be a whole number of steps (0 or more), or a share",
    ),
    Case(
        "never save",
        GOOD + "checkpoint: {save_steps: 0}\n",
        "5:26",
        "checkpoint.save_steps: must be a whole number of steps (1 or more), or a share",
    ),
    Case(
        "choice",
        GOOD + "training: {precision: bf15}\n",
        "5:23",
        'training.precision: must be one of auto, fp32, tf32, bf16, fp16, not "bf15"; did you mean bf16?',
    ),
    Case("future format", GOOD + "schema_version: 2\n", "5:17", "schema_version: must be 1, not 2"),
    # parts
    Case(
        "method",
        GOOD.replace("lora", "qlroa"),
        "2:9",
        "method: the method qlroa is not available in this version; did you mean qlora?",
    ),
    Case(
        "task",
        GOOD.replace("causal_lm", "casual_lm"),
        "1:7",
        "task: the task casual_lm is not available in this version; did you mean causal_lm?",
    ),
    Case(
        "dotted path as method",
        GOOD.replace("lora", "os.path"),
        "2:9",
        "method: the method os.path is not available in this version; available: full, lora",
    ),
    Case(
        "optimizer",
        GOOD + "optimizer: {name: adamv}\n",
        "5:19",
        "optimizer.name: the optimizer adamv is not available in this version; did you mean adamw?",
    ),
    Case(
        "tracker",
        GOOD + "logging: {trackers: [jsonl, consol]}\n",
        "5:29",
        "logging.trackers.1: the tracker consol is not available in this version; did you mean console?",
    ),
    # contradictions
    Case(
        "no model", GOOD.replace("model: {name_or_path: owner/model}\n", ""), "1:1", "model: has neither name_or_path"
    ),
    Case(
        "two models",
        GOOD.replace("owner/model", "owner/model, init: {model_type: gpt2}") + "tokenizer: {name_or_path: gpt2}\n",
        "3:36",
        "model.init: contradicts model.name_or_path",
    ),
    Case(
        "no tokenizer",
        GOOD.replace("name_or_path: owner/model", "init: {model_type: gpt2}"),
        "3:9",
        "model.init: brings no tokenizer",
    ),
    Case(
        "quantized lora",
        GOOD + "quantization: {bits: 4}\n",
        "5:1",
        "quantization: quantised weights cannot be trained, only an adapter beside them; set method: qlora",
    ),
    Case(
        "int8 in four bits",
        QLORA + "quantization: {quant_type: int8}\n",
        "5:16",
        "quantization.quant_type: int8 has 8 bits, and quantization.bits is 4; leave one of them out",
    ),
    Case(
        "nf4 in eight bits",
        QLORA + "quantization: {bits: 8, quant_type: nf4}\n",
        "5:25",
        "quantization.quant_type: nf4 has 4 bits, and quantization.bits is 8; leave one of them out",
    ),
    Case(
        "scales of int8",
        QLORA + "quantization: {bits: 8, double_quant: true}\n",
        "5:25",
        "quantization.double_quant: is for bits: 4",
    ),
    Case(
        "compute dtype of int8",
        QLORA + "quantization: {bits: 8, compute_dtype: bfloat16}\n",
        "5:25",
        "quantization.compute_dtype: is for bits: 4",
    ),
    Case("three bits", QLORA + "quantization: {bits: 3}\n", "5:22", "quantization.bits: must be one of 4, 8, not 3"),
    Case(
        "merge under full",
        GOOD.replace("lora", "full") + "export: {merge: true}\n",
        "5:10",
        "export.merge: there is no adapter to merge",
    ),
    Case(
        "interval of nothing",
        GOOD + "training: {gradient_checkpointing_interval: 2}\n",
        "5:12",
        "training.gradient_checkpointing_interval: needs training.gradient_checkpointing: true",
    ),
    Case(
        "offloading all",
        GOOD + "training: {activation_offloading: true}\n",
        "5:12",
        "training.activation_offloading: needs training.gradient_checkpointing: true; without it",
    ),
    Case(
        "fp16 trained",
        GOOD.replace("method: lora", "method: full").replace("owner/model", "owner/model, dtype: fp16"),
        "3:36",
        "model.dtype: fp16 weights cannot be trained",
    ),
    Case(
        "bf16 in fp32",
        GOOD.replace("owner/model", "owner/model, dtype: bf16") + "training: {precision: fp32}\n",
        "3:36",
        "model.dtype: bf16 weights compute in bf16, not in training.precision: fp32",
    ),
    Case(
        "fp16 in bf16",
        GOOD.replace("owner/model", "owner/model, dtype: fp16") + "training: {precision: bf16}\n",
        "3:36",
        "model.dtype: fp16 weights would be converted to bf16",
    ),
    Case(
        "adapter of another type",
        GOOD + "export: {dtype: bf16}\n",
        "5:10",
        "export.dtype: an adapter stays in the type in which it was trained; use auto, or export.merge: true",
    ),
    Case(
        "three batch numbers",
        GOOD
        + "training:\n  global_batch_size: 8\n  gradient_accumulation_steps: 2\n  per_device_train_batch_size: 4\n",
        "7:3",
        "training.gradient_accumulation_steps: global_batch_size and per_device",
    ),
    Case(
        "two lengths",
        GOOD + "training: {max_steps: 3, num_train_epochs: 1.0}\n",
        "5:12",
        "training.max_steps: contradicts training.num_train_epochs",
    ),
    Case(
        "long warmup",
        GOOD + "training: {max_steps: 3}\nscheduler: {warmup_steps: 3}\n",
        "6:13",
        "scheduler.warmup_steps: 3 steps do not fit into training.max_steps: 3",
    ),
    Case(
        "decay of cosine",
        GOOD + "scheduler: {decay_steps: 3}\n",
        "5:13",
        "scheduler.decay_steps: is for name: wsd, and this is name: cosine",
    ),
    Case(
        "exponential to zero",
        GOOD + "scheduler: {name: exponential}\n",
        "5:13",
        "scheduler.name: exponential never reaches zero",
    ),
    Case(
        "best without data",
        GOOD.replace(", eval: [{path: rows.jsonl}]", "") + "evaluation: {metric_for_best_model: eval/loss}\n",
        "5:14",
        "evaluation.metric_for_best_model: needs evaluation data; give data.eval",
    ),
    Case(
        "patience alone",
        GOOD + "evaluation: {early_stopping_patience: 3}\n",
        "5:14",
        "evaluation.early_stopping_patience: needs evaluation.metric_for_best_model",
    ),
    Case(
        "best not measured",
        GOOD + "evaluation: {metric_for_best_model: loss}\n",
        "5:14",
        "evaluation.metric_for_best_model: loss is not measured by evaluation.metrics; did you mean eval/loss?",
    ),
    Case(
        "unknown metric",
        GOOD + "evaluation: {metrics: [loss, perplexty]}\n",
        "5:30",
        "evaluation.metrics.1: causal_lm has no metric perplexty; did you mean perplexity?",
    ),
    Case(
        "generation for nothing",
        GOOD + "evaluation: {generate_rows: 8}\n",
        "5:14",
        "evaluation.generate_rows: no answer is scored; add token_f1",
    ),
    Case(
        "assistant in text",
        _data("{path: book.txt}").replace("eval: [{path: rows.jsonl}]", "loss_on: assistant"),
        "4:35",
        "data.loss_on: assistant does not exist in plain text (data.train.0)",
    ),
    Case(
        "split messages",
        GOOD.replace("data: {", "data: {on_truncate: split, ").replace(", eval: [{path: rows.jsonl}]", ""),
        "4:8",
        "data.on_truncate: split is for plain text, and data.train.0 holds messages",
    ),
    Case(
        "no training data",
        GOOD.replace("train: [{path: rows.jsonl}], ", ""),
        "4:1",
        "data.train: there is no training data",
    ),
    # not in this version
    Case(
        "fsdp2",
        GOOD + "distributed: {strategy: fsdp2}\n",
        "5:15",
        "distributed.strategy: fsdp2: fsdp2 shards what zero3 shards",
    ),
    Case(
        "offload without sharding",
        GOOD + "distributed: {strategy: zero2, offload_param: cpu}\n",
        "5:32",
        "distributed.offload_param: cpu: weights that are not sharded stay on the device; set distributed.strategy to zero3",
    ),
    Case(
        "optimizer states without a place",
        GOOD + "distributed: {strategy: ddp, offload_optimizer: cpu}\n",
        "5:30",
        "distributed.offload_optimizer: cpu: only ZeRO keeps the optimizer's states where they can be moved",
    ),
    Case(
        "nvme without a folder",
        GOOD + "distributed: {strategy: zero3, offload_optimizer: nvme}\n",
        "5:1",
        "distributed.offload_dir: what is offloaded to nvme needs a folder",
    ),
    Case(
        "a folder for nothing",
        GOOD + "distributed: {strategy: zero3, offload_dir: /tmp}\n",
        "5:32",
        "distributed.offload_dir: nothing is offloaded to nvme",
    ),
    Case(
        "leaf modules without zero3",
        GOOD + "distributed: {strategy: zero2, zero_leaf_modules: [Block]}\n",
        "5:32",
        "distributed.zero_leaf_modules: is for strategy: zero3, and this is strategy: zero2",
    ),
    Case(
        "patience without end",
        GOOD + "distributed: {timeout_minutes: 1e300}\n",
        "5:32",
        "distributed.timeout_minutes: must be a number above 0 and at most 10080, not 1e+300",
    ),
    Case(
        "DeepSpeed's configuration in a file that is not there",
        GOOD + "distributed: {strategy: zero2, deepspeed_config: ds.json}\n",
        "5:50",
        "distributed.deepspeed_config: there is no file",
    ),
    Case(
        "DeepSpeed's configuration without DeepSpeed",
        GOOD + "distributed: {deepspeed_config: {a: 1}}\n",
        "5:15",
        "distributed.deepspeed_config: auto may choose ddp, without DeepSpeed; set distributed.strategy",
    ),
    Case(
        "sweep",
        GOOD + "sweep: {seed: [1, 2]}\n",
        "5:1",
        "sweep: is not supported in this version; run the recipe once per value",
    ),
    Case(
        "ema",
        GOOD + "regularization: {ema: 0.999}\n",
        "5:18",
        "regularization.ema: 0.999 is not supported in this version",
    ),
    Case("streaming", GOOD.replace("data: {", "data: {streaming: true, "), "4:8", "data.streaming: is not supported"),
    Case("slurm", GOOD + "slurm: {nodes: 2}\n", "5:1", "slurm: is not supported in this version"),
    # data files
    Case(
        "missing data",
        _data("{path: row.jsonl}"),
        "4:23",
        "data.train.0.path: there is no file FOLDER/row.jsonl nor row.jsonl; did you mean FOLDER/rows.jsonl?",
    ),
    Case(
        "missing model folder",
        GOOD.replace("owner/model", "./model"),
        "3:23",
        "model.name_or_path: there is no folder ",
    ),
    Case(
        "missing init",
        GOOD.replace("name_or_path: owner/model", "init: config.json").replace("lora", "full")
        + "tokenizer: {name_or_path: gpt2}\n",
        "3:15",
        "model.init: there is no file ",
    ),
    Case(
        "missing template",
        GOOD + "tokenizer: {chat_template: chat.jinja}\n",
        "5:28",
        "tokenizer.chat_template: there is no file ",
    ),
    Case(
        "unknown column",
        _data("{path: pairs.csv, columns: {prompt: qestion, completion: answer}}"),
        "4:44",
        "data.train.0.columns.prompt: FOLDER/pairs.csv has no column qestion; did you mean question?",
    ),
    Case(
        "not our column",
        _data("{path: pairs.csv, columns: {promt: question, completion: answer}}"),
        "4:44",
        "data.train.0.columns.promt: promt is not one of our columns (messages, prompt, completion, ",
    ),
    Case("no format fits", _data("{path: pairs.csv}"), "4:17", "data.train.0.path: FOLDER/pairs.csv fits no format"),
    Case(
        "format without its column",
        _data("{path: list.json, format: messages}"),
        "4:34",
        "data.train.0.format: messages needs a column messages; the file has prompt, completion",
    ),
    Case(
        "column of another format",
        _data("{path: rows.jsonl, columns: {text: messages}, format: messages}"),
        "4:45",
        "data.train.0.columns.text: the format messages has no column text",
    ),
    Case(
        "data not JSON",
        _data("{path: notes.jsonl}"),
        "4:17",
        "data.train.0.path: FOLDER/notes.jsonl line 1 is not JSON",
    ),
    Case("data empty", _data("{path: empty.jsonl}"), "4:17", "data.train.0.path: FOLDER/empty.jsonl holds no rows"),
    # extends
    Case(
        "extends nothing",
        GOOD + "extends: bse.yaml\n",
        "5:10",
        "extends: there is no file FOLDER/bse.yaml; did you mean FOLDER/base.yaml?",
    ),
    Case("extends a circle", GOOD + "extends: circle.yaml\n", "1:10", "extends: a circle: ", file="circle.yaml"),
    Case(
        "error in the base",
        GOOD + "extends: base.yaml\n",
        "1:28",
        "optimizer.learning_rate: must be a number",
        file="base.yaml",
    ),
    # command line
    Case(
        "override typo",
        GOOD,
        "command line optimizer.lr=1",
        "optimizer.lr is not an option of adamw; did you mean learning_rate?",
        ("optimizer.lr=1",),
    ),
    Case(
        "override type", GOOD, "command line seed=x", 'seed: must be a whole number of at least 0, not "x"', ("seed=x",)
    ),
    Case("override without =", GOOD, "command line seed", ": is not an override; write key.path=value", ("seed",)),
    Case("override without key", GOOD, "command line =3", ": has no key before the `=`", ("=3",)),
    Case("override without value", GOOD, "command line seed=", ": has no value; write seed=null", ("seed=",)),
    Case("override twice", GOOD, "command line seed=2", "seed: is also given as seed=1", ("seed=1", "seed=2")),
    Case(
        "override past the list",
        GOOD,
        "command line data.train.3.path=x",
        "data.train: is a list of 1, counted from 0; it has no item 3",
        ("data.train.3.path=x",),
    ),
    Case(
        "override below a value",
        GOOD + "seed: 1\n",
        "command line seed.x=1",
        "seed: is a single value and has no x",
        ("seed.x=1",),
    ),
    Case(
        "override not YAML",
        GOOD,
        "command line logging.trackers=[a",
        ": not YAML: a list in [ ] is not closed",
        ("logging.trackers=[a",),
    ),
]
