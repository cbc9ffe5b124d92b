"""drop_language: which language a text is in, told by py3langid, which has its model with it and needs no network."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from launcher.data.clean import texts
from launcher.data.clean.report import Item
from launcher.data.clean.steps import DropLanguage
from launcher.errors import EnvironmentProblem

RELATIVES = 3
UNCLEAR = "rows kept by drop_language, of which a text is rather in another language, but not clearly"


@cache
def _identifier() -> Any:
    """Naive Bayes on byte n-grams, its probabilities made comparable over lengths by the library."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ModuleNotFoundError:
        raise EnvironmentProblem(
            "drop_language needs py3langid, which is not installed", fix="pip install 'finetune-launcher[languages]'"
        ) from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def known() -> list[str]:
    """Codes of the languages that can be told."""
    return sorted(_identifier().labels)


def library() -> str:
    """Part of the key of prepared rows, since another version may decide otherwise."""
    return version("py3langid")


def told(text: str, languages: Sequence[str]) -> tuple[str, float, bool]:
    """The likeliest of the other languages, the probability of the likeliest three of them, and whether one of `languages`
    is likelier than each.

    Three, because near relatives share what is clear: Mandarin with Wu and Cantonese, Danish with both kinds of Norwegian. A
    text without letters has no language that is likely.
    """
    ranked = _identifier().rank(text)
    others = [(code, score) for code, score in ranked if code not in languages]
    likeliest = sum(score for _, score in others[:RELATIVES])
    return (others[0][0] if others else ""), likeliest, ranked[0][0] in languages


def without_others(
    step: DropLanguage,
    items: Iterable[Item],
    drop: Callable[[Item, str], None],
    count: Callable[[Item, str], None],
) -> Iterator[Item]:
    """Rows of which no text is clearly in another language."""
    for item in items:
        columns = texts.held(item.example, texts.TEXTS if step.columns is None else step.columns)
        found = [(column, *told(texts.spoken(item.example, column), step.languages)) for column in columns]
        if others := [one for one in found if one[2] >= step.min_score]:
            column, code, score, _ = others[0]
            drop(item, f"{column} is {code} or the like ({score:.2f})")
            continue
        if not all(is_ours for _, _, _, is_ours in found):
            count(item, UNCLEAR)
        yield item
