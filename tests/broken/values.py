"""Keys and values, each wrong by itself."""

from broken.case import GOOD, Case, labelled, training_on

CASES = [
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
        training_on("{path: rows.jsonl, wieght: 2}"),
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
    # labels
    Case(
        "a number for a label",
        labelled("[a, 0]"),
        "6:15",
        'data.labels.1: must be text that is not empty, not 0; put it in quotes: "0"',
    ),
    Case(
        "a number for the name of a label",
        labelled('{"0": a, "1": 5}'),
        "6:25",
        'data.labels.1: must be text that is not empty, not 5; put it in quotes: "5"',
    ),
    Case(
        "half of the betas",
        GOOD + "optimizer: {betas: [0.9]}\n",
        "5:20",
        "optimizer.betas: must be a list of 2, each a number",
    ),
    Case(
        "half a size",
        labelled("[a, b]\n  image_size: [20]", "image_classification"),
        "7:15",
        "data.image_size: must be a whole number of at least 1, or a list of 2, each a whole number of at least 1, or null, not a",
    ),
    Case(
        "a size that is none",
        labelled("[a, b]\n  image_size: [20, 0]", "image_classification"),
        "7:20",
        "data.image_size.1: must be a whole number of at least 1, not 0",
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
    Case(
        "a step without its name",
        GOOD.replace("}]}\n", "}], clean: [drop_empty]}\n"),
        "4:73",
        'data.clean.0: must be a mapping of keys to values, not "drop_empty"; write {name: drop_empty}',
    ),
    Case(
        "a step that is no list",
        GOOD.replace("}]}\n", "}], clean: drop_empty}\n"),
        "4:72",
        'data.clean: must be a list, each item a mapping of keys to values, not "drop_empty"; write [{name: drop_empty}]',
    ),
    Case(
        "values of a search as a list",
        GOOD + "sweep: {space: {adapter.r: [4, 8]}}\n",
        "5:28",
        "sweep.space.adapter.r: must be a mapping of keys to values, not a list; write {values: [...]}",
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
        training_on("rows.jsonl"),
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
    Case(
        "missing task",
        GOOD.replace("task: causal_lm\n", ""),
        "1:1",
        "task: is missing; available: audio_",
    ),
    Case("missing path", training_on("{weight: 1}"), "4:16", "data.train.0.path: is missing"),
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
        GOOD + "optimizer: {name: adamww}\n",
        "5:19",
        "optimizer.name: the optimizer adamww is not available in this version; did you mean adamw?",
    ),
    Case(
        "tracker",
        GOOD + "logging: {trackers: [jsonl, consol]}\n",
        "5:29",
        "logging.trackers.1: the tracker consol is not available in this version; did you mean console?",
    ),
]
