"""For each task a tiny model and data of uneven rows, made in a moment: `make(task, folder)` writes tiny.yaml and returns it."""

import csv
import random
from collections.abc import Callable
from pathlib import Path

import tiny
import tiny_encoder
import tiny_pictures
import tiny_seq2seq
import tiny_sounds

COMMON = """\
training: {global_batch_size: 4, per_device_train_batch_size: 1, max_steps: 6, precision: fp32}
scheduler: {name: constant}
export: {verify: false}
logging: {logging_steps: 1, trackers: [jsonl]}
"""
EVALUATION = {"seq2seq_lm": "metrics: [loss, perplexity, token_accuracy, bleu, chrf, rougeL], max_new_tokens: 12, "}

EXAMPLES = {"token_classification": 7, "question_answering": 7}  # to evaluate; of other tasks 5


def make(task: str, folder: Path) -> Path:
    recipe = folder / "tiny.yaml"
    evaluation = f"evaluation: {{{EVALUATION.get(task, '')}per_device_eval_batch_size: 2}}\n"
    recipe.write_text(f"task: {task}\n{MAKERS[task](folder)}{COMMON}{evaluation}")
    return recipe


def _text_classification(folder: Path) -> str:
    labels = {"cat": "animal", "dog": "animal", "house": "thing", "tree": "plant"}
    rows = [{"text": text, "label": labels[text.split()[-1]]} for text in _sentences(27, list(labels))]
    return _texts(folder, rows)


def _text_regression(folder: Path) -> str:
    rows = [{"text": text, "text_pair": text[::-1], "label": str(len(text) / 8)} for text in _sentences(27, tiny.WORDS)]
    return _texts(folder, rows)


def _image_classification(folder: Path) -> str:
    tiny_pictures.save_vit(folder / "model")
    tiny_pictures.in_folders(folder / "train", 22)
    tiny_pictures.in_folders(folder / "eval", 5, 22)
    return IMAGES


def _semantic_segmentation(folder: Path) -> str:
    tiny_pictures.save_segformer(folder / "model")
    tiny_pictures.with_masks(folder / "train", 22)
    tiny_pictures.with_masks(folder / "eval", 5, 22)
    return IMAGES + "loss: {dice_weight: 0.5}\n"


def _object_detection(folder: Path) -> str:
    tiny_pictures.save_yolos(folder / "model")
    tiny_pictures.with_boxes(folder / "train" / "boxes.json", 22)
    tiny_pictures.with_boxes(folder / "eval" / "boxes.json", 5, 22)
    return IMAGES.replace("path: train", "path: train/boxes.json").replace("path: eval", "path: eval/boxes.json")


def _audio_classification(folder: Path) -> str:
    tiny_sounds.save_ast(folder / "model")  # the kind that ZeRO-3 can load
    tiny_sounds.in_folders(folder / "train", 22)
    tiny_sounds.in_folders(folder / "eval", 5, 22)
    return IMAGES


def _seq2seq_lm(folder: Path) -> str:
    tiny_seq2seq.save(folder / "model")
    tiny_seq2seq.words(folder / "train.jsonl", 22)
    tiny_seq2seq.words(folder / "eval.jsonl", 5, seed=1)
    return """\
method: full
model: {name_or_path: model}
data: {train: [{path: train.jsonl}], eval: [{path: eval.jsonl}], max_length: 12, max_target_length: 16}
optimizer: {learning_rate: 1.0e-2}
"""


def _texts(folder: Path, rows: list[dict[str, str]]) -> str:
    save_bert(folder / "model")
    write(folder / "train.csv", rows[:22])
    write(folder / "eval.csv", rows[22:])
    return """\
method: full
model: {name_or_path: model}
data: {train: [{path: train.csv}], eval: [{path: eval.csv}], max_length: 12}
optimizer: {learning_rate: 1.0e-3}
"""


def _sentences(number: int, last: list[str]) -> list[str]:
    """Each ends with one of the words `last`, in turn."""
    chance = random.Random(0)
    return [
        " ".join([*chance.choices(tiny.WORDS, k=chance.randint(1, 9)), last[index % len(last)]])
        for index in range(number)
    ]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as content:
        writer = csv.DictWriter(content, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def save_bert(folder: Path) -> None:
    """A headless BERT of two layers without dropout, and the tokenizer of `tiny`, whose pairs know which text a token is of."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer, BertConfig, BertModel

    tiny.save_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = [("<|end|>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|end|>", pair="$A <|end|> $B:1 <|end|>:1", special_tokens=ends
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=32,
        hidden_size=64,  # as wide as a block of 4-bit weights
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)


IMAGES = """\
method: full
model: {name_or_path: model}
data: {train: [{path: train}], eval: [{path: eval}]}
optimizer: {learning_rate: 1.0e-3}
"""
MAKERS: dict[str, Callable[[Path], str]] = {
    "text_classification": _text_classification,
    "text_regression": _text_regression,
    "token_classification": tiny_encoder.token_classification,
    "question_answering": tiny_encoder.question_answering,
    "image_classification": _image_classification,
    "semantic_segmentation": _semantic_segmentation,
    "object_detection": _object_detection,
    "audio_classification": _audio_classification,
    "seq2seq_lm": _seq2seq_lm,
}
