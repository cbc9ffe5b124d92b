"""The rows of the training data as a step of the run sees them, each changed by chance of its own."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from launcher.data import text_rows
from launcher.data.augment import texts, views
from launcher.data.augment.steps import OfWords, SynonymReplacement
from launcher.data.context import Context, Tools
from launcher.errors import RecipeError

AUGMENTATION = 2  # beside the uses of chance that `order` numbers
Row = Mapping[str, Any]


class Augmentation:
    """`data.augment` of a recipe. What becomes of a row is a function of the seed, the step and the row: the same on any rank, and
    after a resume. A row that comes up twice in an epoch is changed in two ways."""

    def __init__(self, context: Context, seed: int):
        self.steps, self.seed, self.context = context.data.augment, seed, context
        for step in self.steps:  # the first row that is changed reads them, after it was asked what nothing reads
            _ = [getattr(step, name) for name in type(step).model_fields]
        self.mask = getattr(context.processor, "mask_token", None)
        self.synonyms = {
            step.path: texts.synonyms_of(step.path) for step in self.steps if isinstance(step, SynonymReplacement)
        }
        if self.mask is None and any(step.name == "random_masking" for step in self.steps):
            raise RecipeError("data.augment: random_masking needs a mask token, and this tokenizer has none")

    def of_step(self, read: Callable[..., Row], step: int) -> Callable[..., Row]:
        """`read` of a row by its index, as the step sees it."""

        def changed(index: int, names: Any = None) -> Row:
            random = np.random.default_rng([self.seed, step, AUGMENTATION, index])
            if isinstance(self.steps[0], OfWords):
                return self._text(read(index), random)
            return _picture(read(index, names), views.draw(self.steps, random))

        return changed

    def _text(self, row: Row, random: np.random.Generator) -> Row:
        """Tokenised anew. A row that is longer now is cut; what stood in it before was short enough."""
        said = {"text": row["text"], "text_pair": row["text_pair"]}
        for step in self.steps:
            assert isinstance(step, OfWords)
            if random.random() < step.probability:
                for name, text in said.items():
                    said[name] = texts.changed(
                        text, step, random, self.mask, self.synonyms.get(getattr(step, "path", ""), {})
                    )
        tools = Tools(self.context.processor, self.context.data, "truncate", {})
        tokens = text_rows.tokenised(said["text"], said["text_pair"] or None, tools, row["where"])
        assert tokens is not None, "only what is dropped is None"
        return {**row, **said, **tokens}


def _picture(row: Row, view: views.View) -> Row:
    """With the `view` that `pictures.read` and masks heed; boxes and their labels are moved at once."""
    if "boxes" not in row:
        return {**row, "view": view}
    boxes, kept = view.boxes(np.asarray(row["boxes"], np.float64).reshape(-1, 4), row["width"], row["height"])
    labels = [name for name, stays in zip(row["labels"], kept, strict=True) if stays]
    return {**row, "view": view, "boxes": boxes.ravel(), "labels": labels}
