"""Generated text against one reference each, over a corpus: BLEU and chrF of sacrebleu, ROUGE of rouge_score."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from launcher.errors import EnvironmentProblem, RecipeError
from launcher.metrics import Measured, finite, nothing

NAMES = ("bleu", "chrf", "rouge1", "rouge2", "rougeL")


def corpus(
    predicted: Sequence[str], references: Sequence[str], names: Sequence[str] = ("bleu", "chrf"), tokenize: str = "13a"
) -> Measured:
    """Those of `NAMES` that are asked for; bleu and chrf from 0 to 100, the F1 of rouge, averaged over texts, from 0 to 1.

    `tokenize` splits words for BLEU: `13a` (languages with spaces), `zh`, `ja-mecab`, `char`, `intl`, ... of sacrebleu.
    It splits them for ROUGE, too, unless it is `13a`: then ROUGE takes its own words, which are of a-z and 0-9 only and
    not stemmed. The signatures that make BLEU and chrF comparable (arXiv:1804.08771) are in `details["notes"]`.
    """
    assert len(predicted) == len(references) and set(names) <= set(NAMES), (len(predicted), len(references), names)
    if not predicted:
        return nothing("there are no texts")
    split = _tokenizer(tokenize)
    values: dict[str, float] = {}
    notes: list[str] = []
    for name in ("bleu", "chrf"):
        if name in names:
            values[name], signature = _sacrebleu(name, predicted, references, tokenize)
            notes.append(f"{name}: {signature}")
    if rouges := [name for name in names if name.startswith("rouge")]:
        values |= _rouge(rouges, predicted, references, None if tokenize == "13a" else split)
    return finite({name: values[name] for name in names}, {}, notes)


def chrf_of_each(predicted: Sequence[str], references: Sequence[str]) -> list[float]:
    """chrF of each text by itself, 0 to 100."""
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    return [
        metric.sentence_score(text, [reference]).score for text, reference in zip(predicted, references, strict=True)
    ]


def _tokenizer(name: str) -> Any:
    """sacrebleu's tokenizer of that name; RecipeError for a name it lacks, EnvironmentProblem where its package is missing."""
    from sacrebleu.metrics.bleu import BLEU

    if name not in BLEU.TOKENIZERS:
        known = ", ".join(sorted(BLEU.TOKENIZERS))
        raise RecipeError(f"sacrebleu has no tokenizer {name!r}", fix=f"name one of {known}")
    try:
        return BLEU(tokenize=name).tokenizer
    except (RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise EnvironmentProblem(
            f"the tokenizer {name!r} does not load: {reason}", fix="install it, or take 'char'"
        ) from error


def _sacrebleu(name: str, predicted: Sequence[str], references: Sequence[str], tokenize: str) -> tuple[float, str]:
    """The score (0 to 100) and its signature. `force` only stops a warning about text that looks tokenized."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    metric = BLEU(tokenize=tokenize, force=True) if name == "bleu" else CHRF()
    score = metric.corpus_score(list(predicted), [list(references)]).score
    return min(100.0, score), str(metric.get_signature())  # the sum of logarithms ends at 100.00000000000004


def _rouge(names: list[str], predicted: Sequence[str], references: Sequence[str], split: Any) -> dict[str, float]:
    from rouge_score.rouge_scorer import RougeScorer

    words = SimpleNamespace(tokenize=lambda text: split(text.lower()).split()) if split else None
    scorer = RougeScorer(names, tokenizer=words)
    scored = [scorer.score(reference, text) for text, reference in zip(predicted, references, strict=True)]
    return {name: sum(one[name].fmeasure for one in scored) / len(scored) for name in names}
