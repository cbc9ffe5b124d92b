"""LoRA on tiny models, as the launcher makes it, and as somebody else loads it."""

import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from tasks.families import VOCABULARY, build
from torch import Tensor

from launcher import proof, saved_state
from launcher.adapters import lora
from launcher.engine import Engine
from launcher.engine.replicated import Replicated
from launcher.token_rows import TokenRows

NEW = 5  # tokens that the base model does not know


def base(family: str = "llama", dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """The same weights every time."""
    return build(family, dtype=dtype, **changes).eval()


def grown(family: str = "llama", trained: tuple[int, ...] = (), **changes: Any) -> Any:
    """With `NEW` rows more, as `token_rows.fit` leaves it under LoRA; `trained` are known tokens to train beside them."""
    model = base(family, **changes)
    proof.grow(model, VOCABULARY + NEW)
    model.token_rows = TokenRows(VOCABULARY, tuple(sorted({*trained, *range(VOCABULARY, VOCABULARY + NEW)})))
    return model


def adapt(model: Any, seed: int = 1, **options: Any) -> Any:
    torch.manual_seed(seed)
    return lora.apply(model, lora.Config(**{"r": 4, "lora_alpha": 12.0} | options))


def ids(model: Any, seed: int = 0) -> Tensor:
    """(3, 8) token numbers, all new ones among them."""
    torch.manual_seed(seed)
    rows = model.get_input_embeddings().weight.shape[0]
    drawn = torch.randint(1, rows, (3, 8))
    drawn.view(-1)[: rows - VOCABULARY] = torch.arange(VOCABULARY, rows)
    return drawn


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=ids(model), use_cache=False).logits


def train(model: Any, steps: int = 3) -> Any:
    """AdamW on random text."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-2, weight_decay=0.0)
    for step in range(steps):
        text = ids(model, seed=10 + step)
        model(input_ids=text, labels=text, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


class Alone:
    """As much of an engine as a checkpoint of one process needs."""

    is_main = True
    _average = None
    weights, load_weights = Engine.weights, Engine.load_weights
    optimizer_states, load_optimizer_states = Engine.optimizer_states, Engine.load_optimizer_states

    def __init__(self, objective: Any = None, optimizer: Any = None):
        self.objective = objective
        self._strategy = Replicated.__new__(Replicated)
        self._strategy.objective, self._strategy.optimizer = objective, optimizer


def save(model: Any, folder: Path) -> None:
    """A checkpoint's model/."""
    saved_state.save_model(model, folder, Alone())


def load(model: Any, folder: Path) -> None:
    saved_state.load_model(model, folder, Alone())


def export(model: Any, folder: Path) -> None:
    """As `launcher.export` writes it."""
    model.save_pretrained(folder, **({"save_embedding_layers": False} if hasattr(model, "peft_config") else {}))


def loaded(model: Any, fresh: Any, folder: Path) -> Any:
    """What PEFT makes of the written adapter and somebody's copy of the base."""
    export(lora.plain(model), folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(fresh, folder)


def merged(model: Any, folder: Path) -> Any:
    """The merged model, written and loaded by transformers."""
    kind = type(model.get_base_model())
    export(lora.merge(model), folder)
    return kind.from_pretrained(folder, attn_implementation="eager")
