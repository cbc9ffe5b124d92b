"""Did you mean: the nearest of our names, the section a key belongs to, what other launchers call the same thing."""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

STAGES = ("stages", "linear_probe_then_finetune", "gradual_unfreezing")  # they repeat keys of other sections
BESIDE = (*STAGES, "sweep")  # whose keys nobody means who writes them elsewhere


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option that looks most like `word`, or None when none comes close."""
    spelt = _bare(word)
    scored = [(SequenceMatcher(None, spelt, _bare(option)).ratio(), option) for option in options]
    score, option = max(scored, default=(0.0, ""))
    return option if score >= 0.6 else None


def did_you_mean(word: str, options: Iterable[str]) -> str:
    option = nearest(word, options)
    return f"; did you mean {option}?" if option else ""


def meant(section: str, key: str, known: Sequence[str]) -> str | None:
    """What a key that `section` (dotted, "" at the top) does not have was meant to be; `known` are all dotted keys.

    A key of another section names that section; then other launchers' spellings; then likeness, own section first.
    """
    own = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == section]
    return (
        PEER_SPELLINGS.get(f"{section}.{_bare(key)}")
        or next((name for name in own if _bare(name) == _bare(key)), None)
        or _elsewhere(key, known)
        or PEER_SPELLINGS.get(_bare(key))
        or nearest(key, own)
        or _nearest_elsewhere(key, known)
    )


def _elsewhere(key: str, known: Sequence[str]) -> str | None:
    homes = [name for name in known if name.rpartition(".")[2] == key and name.partition(".")[0] not in BESIDE]
    return " or ".join(homes) if 1 <= len(homes) <= 2 else None


def _nearest_elsewhere(key: str, known: Sequence[str]) -> str | None:
    word = nearest(key, {name.rpartition(".")[2] for name in known} | set(PEER_SPELLINGS))
    if word is None or SequenceMatcher(None, _bare(key), word).ratio() < 0.8:
        return None
    return _elsewhere(word, known) or PEER_SPELLINGS.get(word)


def _bare(word: str) -> str:
    return word.lower().replace("-", "_").strip("_ ")


# What axolotl, LLaMA-Factory, TRL, torchtune, ms-swift, unsloth, litgpt call our keys; `section.key` counts only there.
PEER_SPELLINGS = {
    "model.name": "model.name_or_path",
    "model.path": "model.name_or_path",
    "model.config": "model.init",
    "data.path": "data.train",
    "dataset.path": "data.train",
    "data.test": "data.eval",
    "data.train.split": "split inside a source: train: [{path: ..., split: ...}]",
    "scheduler.type": "name",
    "optimizer.type": "name",
    "distributed.backend": "distributed.strategy",
    "checkpoint.output_dir": "output_dir at the top of the recipe",
    "training.output_dir": "output_dir at the top of the recipe",
    "adapter.rank": "r",
    "adapter.alpha": "lora_alpha",
    "adapter.dropout": "lora_dropout",
    "_component_": "the name of a part: method, task, optimizer.name",
    "accumulate_grad_batches": "training.gradient_accumulation_steps",
    "adam_beta1": "optimizer.betas: [beta1, beta2]",
    "adam_beta2": "optimizer.betas: [beta1, beta2]",
    "adam_epsilon": "optimizer.eps",
    "alpha": "adapter.lora_alpha",
    "attn_impl": "model.attn_implementation",
    "base_model": "model.name_or_path",
    "batch_size": "training.global_batch_size (over all processes) or training.per_device_train_batch_size",
    "bf16": "training.precision: bf16",
    "bnb_4bit_compute_dtype": "quantization.compute_dtype",
    "bnb_4bit_quant_type": "quantization.quant_type",
    "bnb_4bit_use_double_quant": "quantization.double_quant",
    "checkpoint_dir": "output_dir",
    "clip_grad_norm": "training.max_grad_norm",
    "context_length": "data.max_length",
    "cutoff_len": "data.max_length",
    "dataloader_num_workers": "data.cache_dir (rows are prepared once; there are no loader workers)",
    "dataset": "data.train",
    "dataset_name": "data.train: [{path: ...}]",
    "dataset_path": "data.train: [{path: ...}]",
    "datasets": "data.train",
    "ddp": "distributed.strategy: ddp",
    "deepspeed": "distributed.strategy",
    "early_stopping": "evaluation.early_stopping_patience",
    "enable_gradient_checkpointing": "training.gradient_checkpointing",
    "epochs": "training.num_train_epochs",
    "eval_batch_size": "evaluation.per_device_eval_batch_size",
    "eval_dataset": "data.eval",
    "eval_interval": "evaluation.eval_steps",
    "eval_strategy": "evaluation.eval_steps",
    "evaluation_strategy": "evaluation.eval_steps",
    "evals_per_epoch": "evaluation.eval_steps (below 1: a share of all steps)",
    "field_messages": "columns: {messages: ...} inside a source",
    "finetuning_type": "method",
    "flash_attention": "model.attn_implementation: flash_attention_2",
    "flash_attn": "model.attn_implementation: flash_attention_2",
    "fp16": "training.precision: fp16",
    "fp32": "training.precision: fp32",
    "fsdp": "distributed.strategy",
    "fsdp_config": "distributed.strategy",
    "full_finetune": "method: full",
    "grad_accum": "training.gradient_accumulation_steps",
    "grad_clip": "training.max_grad_norm",
    "gradient_accumulation": "training.gradient_accumulation_steps",
    "gradient_clipping": "training.max_grad_norm",
    "instruction": "columns: {prompt: instruction} inside a source",
    "learning_rate_scheduler": "scheduler.name",
    "liger_kernel": "loss.implementation: fused",
    "load_best_model_at_end": "evaluation.metric_for_best_model",
    "llm_int8_skip_modules": "quantization.skip_modules",
    "load_in_4bit": "method: qlora with quantization.bits: 4",
    "load_in_8bit": "method: qlora with quantization.bits: 8",
    "log_every_n_steps": "logging.logging_steps",
    "log_interval": "logging.logging_steps",
    "lora_dim": "adapter.r",
    "lora_r": "adapter.r",
    "lora_rank": "adapter.r",
    "lora_target": "adapter.target_modules",
    "lora_target_linear": "adapter.target_modules: all-linear",
    "lora_target_modules": "adapter.target_modules",
    "lr": "optimizer.learning_rate",
    "lr_scheduler": "scheduler.name",
    "lr_scheduler_type": "scheduler.name",
    "max_epochs": "training.num_train_epochs",
    "max_norm": "training.max_grad_norm",
    "max_samples": "split: train[:1000] inside a source",
    "max_seq_len": "data.max_length",
    "max_seq_length": "data.max_length",
    "max_train_steps": "training.max_steps",
    "micro_batch_size": "training.per_device_train_batch_size",
    "mixed_precision": "training.precision",
    "model_id": "model.name_or_path",
    "model_max_length": "data.max_length",
    "model_name": "model.name_or_path",
    "model_name_or_path": "model.name_or_path",
    "model_path": "model.name_or_path",
    "model_type": "model.name_or_path (the type is in the model's own config)",
    "neftune_noise_alpha": "regularization.neftune_noise_alpha",
    "num_epochs": "training.num_train_epochs",
    "num_nodes": "slurm.nodes",
    "num_steps": "training.max_steps",
    "num_warmup_steps": "scheduler.warmup_steps",
    "optim": "optimizer.name",
    "pad_to_sequence_len": "data.packing",
    "peft": "adapter",
    "peft_config": "adapter",
    "per_device_batch_size": "training.per_device_train_batch_size",
    "pretrained_model_name_or_path": "model.name_or_path",
    "quant_bits": "quantization.bits",
    "quantization_bit": "quantization.bits",
    "rank": "adapter.r",
    "report_to": "logging.trackers",
    "resume_from_checkpoint": "--resume auto on the command line",
    "rope_scaling": "model.init (a mapping with the model's own config fields)",
    "sample_packing": "data.packing",
    "save_interval": "checkpoint.save_steps",
    "save_strategy": "checkpoint.save_steps",
    "seq_len": "data.max_length",
    "seq_length": "data.max_length",
    "sequence_len": "data.max_length",
    "stage": "task",
    "steps": "training.max_steps",
    "target_modules_to_train": "adapter.target_modules",
    "template": "tokenizer.chat_template",
    "tf32": "training.precision: tf32",
    "torch_dtype": "model.dtype",
    "total_batch_size": "training.global_batch_size",
    "train_batch_size": "training.global_batch_size",
    "train_dataset": "data.train",
    "train_file": "data.train: [{path: ...}]",
    "train_micro_batch_size_per_gpu": "training.per_device_train_batch_size",
    "train_on_inputs": "data.loss_on",
    "train_on_prompt": "data.loss_on",
    "train_type": "method",
    "training_type": "method",
    "tuner_type": "method",
    "use_flash_attention_2": "model.attn_implementation: flash_attention_2",
    "use_liger_kernel": "loss.implementation: fused",
    "val_check_interval": "evaluation.eval_steps",
    "val_dataset": "data.eval",
    "val_file": "data.eval: [{path: ...}]",
    "val_set_size": "data.eval",
    "validation": "data.eval",
    "wandb": "logging.trackers",
    "wandb_project": "logging.trackers",
    "warmup": "scheduler.warmup_steps",
    "warmup_ratio": "scheduler.warmup_steps (below 1: a share of all steps)",
    "zero_stage": "distributed.strategy: zero2",
}
