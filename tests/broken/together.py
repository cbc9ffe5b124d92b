"""What is wrong together, and what this version does not do."""

from broken.case import GOOD, QLORA, Case, labelled, training_on

CASES = [
    # labels
    Case("no label", labelled("[]"), "6:3", "data.labels: lists no label; leave it out"),
    Case("no label in a mapping", labelled("{}"), "6:3", "data.labels: lists no label; leave it out"),
    Case("label twice", labelled("[a, b, a]"), "6:18", "data.labels.2: a is listed twice"),
    Case("blanks", labelled('[a, " b"]'), "6:15", "data.labels.1: blanks around a label are no part of it"),
    Case("blanks in a key", labelled('{a: A, "b ": B}'), "6:18", "data.labels.b : blanks around a label"),
    *(
        Case(
            f"{number} in a mask",
            labelled(f'{{"0": a, "{number}": b}}', "semantic_segmentation"),
            "6:20",
            f"data.labels.{number}: {number} is no number in a mask; these are 0 to 65535",
        )
        for number in ("70000", "-1", "007", "zero", "²")
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
        training_on("{path: book.txt}").replace("eval: [{path: rows.jsonl}]", "loss_on: assistant"),
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
        GOOD + "sweep: {space: {optimizer.lerning_rate: {values: [1.0e-3]}}}\n",
        "5:17",
        "sweep.space: optimizer.lerning_rate is not an option of adamw; did you mean learning_rate?",
    ),
    Case(
        "an average under zero3",
        GOOD + "regularization: {ema: 0.999}\ndistributed: {strategy: zero3}\n",
        "5:18",
        "regularization.ema: 0.999: the average is kept beside whole weights",
    ),
    Case("streaming", GOOD.replace("data: {", "data: {streaming: true, "), "4:8", "data.streaming: is not supported"),
    Case("slurm", GOOD + "slurm: {nodes: 2}\n", "5:1", "slurm: is not supported in this version"),
]
