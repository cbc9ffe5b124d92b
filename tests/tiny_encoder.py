"""A tiny BERT with a tokenizer that cuts words into pieces, and data with tagged words and with questions.

`token_classification(folder)` and `question_answering(folder)` write both, and return the recipe's sections for them.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLACES = ["berlin", "paris", "rome"]
NAMES = ["ada", "grace", "alan"]
OTHERS = ["sees", "likes", "the", "old", "river", "in", "and", "a", "unriverly"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CHINESE = "春天在哪里人民"


SECTIONS = """\
method: full
model: {{name_or_path: encoder}}
data: {{train: [{{path: train.jsonl}}], eval: [{{path: eval.jsonl}}], max_length: 24{}}}
optimizer: {{learning_rate: 1.0e-2}}
"""


def token_classification(folder: Path) -> str:
    _with_data(folder, sentence)
    return SECTIONS.format("")


def question_answering(folder: Path) -> str:
    _with_data(folder, question)
    return SECTIONS.format(", doc_stride: 5, max_query_length: 8")


def _with_data(folder: Path, make: Callable[[random.Random, int], dict[str, Any]]) -> None:
    """Eleven examples and seven to evaluate, some longer than the model takes at once."""
    save(folder / "encoder")
    chance = random.Random(0)
    for name, number in (("train", 11), ("eval", 7)):
        write(folder / f"{name}.jsonl", [make(chance, chance.randint(1, 40)) for _ in range(number)])


def save(folder: Path) -> Path:
    """model with tokenizer, the same bytes every time."""
    import torch
    from transformers import BertConfig, BertModel

    save_tokenizer(folder)
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    shape |= {"initializer_range": 0.2}  # for logits that are far apart
    shape |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(vocab_size=200, num_attention_heads=4, max_position_embeddings=64, pad_token_id=0, **shape)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = [
        *PLACES,
        *NAMES,
        *OTHERS[:-1],
        "un",
        "##river",
        "##ly",
        *LETTERS,
        *(f"##{c}" for c in LETTERS),
        *CHINESE,
        *".,?",
    ]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(special + pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ids = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names).save_pretrained(folder)


def sentence(chance: random.Random, number: int) -> dict[str, list[str]]:
    """{tokens, tags}: places and names, some of two words; the joiner of emoji, of which BERT's tokenizer leaves nothing."""
    tokens, tags = [], []
    while len(tokens) < number:
        kind = chance.choice(["LOC", "PER", None, None, None])
        if kind is None:
            tokens.append(chance.choice([*OTHERS, "\u200d"]))
            tags.append("O")
        else:
            tokens += chance.choices(PLACES if kind == "LOC" else NAMES, k=chance.randint(1, 2))
            tags += [f"B-{kind}", *[f"I-{kind}"] * (len(tokens) - len(tags) - 1)]
    return {"tokens": tokens, "tags": tags}


def question(chance: random.Random, number: int) -> dict[str, Any]:
    """{question, context, answers}: who sees a place? One question of four has no answer, one of two has two right ones."""
    words = chance.choices(OTHERS, k=number)
    place, name = chance.choice(PLACES), chance.choice(NAMES)
    has_answer = chance.random() > 0.25
    at = chance.randrange(number)
    words[at : at + 1] = [name, "sees", place] if has_answer else ["nobody"]
    start = len(" ".join([*words[:at], ""]))
    answers = [{"text": name, "answer_start": start}, {"text": f"{name} sees", "answer_start": start}]
    count = chance.randint(1, 2) if has_answer else 0
    return {"question": f"who sees {place}?", "context": " ".join(words), "answers": answers[:count]}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
