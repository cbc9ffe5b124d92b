"""The providers that train in this process: loops by hand, and TRL. `loops.py WORK SETTINGS RUNS` trains the runs in turn.

A line in WORK/lines.jsonl for each step, so that what is stopped leaves what it has measured. Each run begins with the same random
weights, made on the device: fp32 under bf16 autocast where all are trained, bf16 under LoRA, whose adapters are fp32. That is
what the launcher does; WORK/model and WORK/train.jsonl are for it.
"""

import functools
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from settings import Run, Settings, append, from_words
from shapes import config_of

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "kernels"), str(ROOT / "tests" / "bench")]
from providers import save_tokenizer, token_rows, trainer_arguments, write_rows  # noqa: E402

Note = Callable[[float], None]  # is given the loss at the end of each step


def main(work: Path, s: Settings, runs: list[Run]) -> None:
    make_material(work, runs[0].shape, s)
    rows = torch.tensor(token_rows(work, s))
    for number, run in enumerate(runs):
        try:
            PROVIDERS[run.provider](run, rows, s, functools.partial(note, work, number, s.device))
        except Exception as error:  # one run's trouble is not the next one's
            append(work / "lines.jsonl", {"run": number, "error": f"{type(error).__name__}: {first_line(error)}"})
        clear_memory(s.device)


def make_material(work: Path, shape: str, s: Settings) -> None:
    if (work / "train.jsonl").exists():
        return
    save_tokenizer(work / "model", s.vocab_size)
    new_model(shape, s).save_pretrained(work / "model")
    clear_memory(s.device)
    write_rows(work / "train.jsonl", s)


def new_model(shape: str, s: Settings) -> Any:
    """Random weights in bf16, the same each time."""
    from transformers import AutoConfig, AutoModelForCausalLM

    values = config_of(shape, s.small)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    torch.manual_seed(s.seed)
    with torch.device(s.device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")


def lora_config(s: Settings) -> Any:
    import peft

    return peft.LoraConfig(
        task_type="CAUSAL_LM", r=s.lora_r, lora_alpha=s.lora_alpha, lora_dropout=0.0, target_modules="all-linear"
    )


# --- providers, each (run, rows, settings, note) ---


def bare_loop(run: Run, rows: torch.Tensor, s: Settings, note: Note, loss_of: Callable | None = None) -> None:
    """What a careful person writes by hand with PyTorch, transformers and PEFT."""
    model = prepared_model(run, s)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=s.learning_rate, weight_decay=0.0, fused=True)
    for batch in rows.split(s.rows_per_step):
        batch = batch.to(s.device)
        with torch.autocast(s.device, torch.bfloat16):
            loss = (loss_of or own_loss)(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, s.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        note(loss.item())


def loop_with_kernels(run: Run, rows: torch.Tensor, s: Settings, note: Note) -> None:
    bare_loop(run, rows, s, note, fused_loss)


def trl_trainer(run: Run, rows: torch.Tensor, s: Settings, note: Note) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_dict({"input_ids": rows.tolist()})
    arguments = SFTConfig(**trl_arguments(run, s), max_length=s.tokens_per_row, packing=False)
    model = new_model(run.shape, s)
    lora = lora_config(s) if run.method == "lora" else None
    trainer = SFTTrainer(
        model if lora else model.float(),
        arguments,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(WORK / "model"),
        peft_config=lora,
    )
    trainer.add_callback(observer(note))
    forget_peak(s.device)
    trainer.train()


PROVIDERS = {
    "bare loop": bare_loop,
    "bare loop + launcher_kernels": loop_with_kernels,
    "TRL SFTTrainer": trl_trainer,
}


def prepared_model(run: Run, s: Settings) -> Any:
    model = new_model(run.shape, s)
    if run.method == "lora":
        import peft

        model = peft.get_peft_model(model, lora_config(s))
    else:
        model = model.float()
    if s.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    forget_peak(s.device)
    return model.train()


def own_loss(model: Any, batch: torch.Tensor) -> torch.Tensor:
    return model(input_ids=batch, labels=batch, use_cache=False).loss


def fused_loss(model: Any, batch: torch.Tensor) -> torch.Tensor:
    from launcher_kernels import linear_cross_entropy

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = base.base_model(input_ids=batch, use_cache=False).last_hidden_state.to(torch.bfloat16)
    targets = batch.numel() - len(batch)  # the last token of a row has no next one; known, so the device is not asked
    return linear_cross_entropy(hidden, base.get_output_embeddings().weight, batch, shift=1, n_valid=targets).loss


def trl_arguments(run: Run, s: Settings) -> dict:
    return trainer_arguments(WORK, s) | {
        "output_dir": str(WORK / "trl"),
        "bf16": True,
        "use_cpu": s.device == "cpu",
        "use_liger_kernel": run.loss == "liger",
    }


def observer(note: Note) -> Any:
    from transformers import TrainerCallback

    class Observer(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            if "loss" in logs:  # a number by now, so the device has finished the step
                note(float(logs["loss"]))

    return Observer()


# --- time and memory ---


def note(work: Path, number: int, device: str, loss: float) -> None:
    line = {"run": number, "time": time.perf_counter(), "loss": loss, "peak_memory_gib": peak_memory_gib(device)}
    append(work / "lines.jsonl", line)


def peak_memory_gib(device: str) -> float:
    """What torch has given out on a GPU at most; resident memory of this process, earlier runs included, on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**20


def forget_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def clear_memory(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


if __name__ == "__main__":
    WORK = Path(sys.argv[1])
    main(WORK, *from_words(sys.argv[2], sys.argv[3]))
