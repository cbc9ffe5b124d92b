"""drop_language: what is clearly in another language goes, what is not clear stays and is counted."""

from pathlib import Path
from typing import Any

import pytest
from written import put

from launcher import recipe
from launcher.data.clean import language
from launcher.data.clean.pipeline import Cleaning
from launcher.data.clean.report import Report
from launcher.errors import EnvironmentProblem, RecipeError
from launcher.schema import Data
from launcher.section import freeze

SENTENCES = {
    "en": [
        "The ferry leaves at eight and comes back before it gets dark.",
        "Nobody had told her that the library would be closed on Friday.",
        "Please send me the bill again, since I cannot find the first one.",
    ],
    "de": [
        "Die Fähre legt um acht Uhr ab und kommt vor der Dunkelheit zurück.",
        "Niemand hatte ihr gesagt, dass die Bibliothek am Freitag geschlossen ist.",
        "Bitte schicken Sie mir die Rechnung noch einmal, ich finde die erste nicht.",
    ],
    "zh": [
        "渡轮八点出发，天黑之前就会回来。",
        "没有人告诉她图书馆星期五不开门。",
        "请把账单再寄给我一次，我找不到第一份了。",
    ],
}
UNCLEAR = ["ok", "12 345", "", "print(x)"]


def cleaned(folder: Path, rows: list[dict[str, Any]], formats: str = "labelled_text", **step: Any) -> Report:
    listed = [{"path": str(put(folder, "rows.jsonl", rows))}]
    steps = [{"name": "drop_language", **step}]
    return Cleaning(Data.model_validate(freeze({"train": listed, "clean": steps})), "train", (formats,)).report(0)


@pytest.mark.parametrize("languages", [["en"], ["de"], ["zh"], ["en", "zh"], ["fr"]], ids="-".join)
def test_rows_of_the_languages_stay_and_those_of_others_go(languages: list[str], tmp_path: Path) -> None:
    told = [(code, text) for code, texts in SENTENCES.items() for text in texts] + [(None, text) for text in UNCLEAR]
    told = sorted(told, key=lambda one: one[1][::-1])
    report = cleaned(tmp_path, [{"text": text, "label": 0} for _, text in told], languages=languages)
    assert [row["text"] for _, row in report.kept] == [text for code, text in told if code is None or code in languages]
    gone = [(number, code) for number, (code, _) in enumerate(told, 1) if code is not None and code not in languages]
    assert [row["where"].rpartition(":")[2] for row in report.dropped] == [str(number) for number, _ in gone]
    assert [row["why"][:10] for row in report.dropped] == [f"text is {code}" for _, code in gone]
    assert report.counts["rows dropped by drop_language"] == len(gone)
    assert report.counts[language.UNCLEAR] == len(UNCLEAR)


def test_each_column_has_its_own_languages(tmp_path: Path) -> None:
    pairs = [("en", "de"), ("de", "en"), ("en", "zh")]
    rows = [{"source": SENTENCES[source][0], "target": SENTENCES[target][1]} for source, target in pairs]
    kept = cleaned(tmp_path, rows, "source_target", languages=["en"], columns=["source"]).kept
    assert [row for _, row in kept] == [rows[0], rows[2]]
    report = cleaned(tmp_path, rows, "source_target", languages=["en", "de"])
    assert [row["why"][:12] for row in report.dropped] == ["target is zh"]
    turns = [{"role": "user", "content": SENTENCES["zh"][0]}, {"role": "assistant", "content": SENTENCES["zh"][1]}]
    assert not cleaned(tmp_path, [{"messages": turns}], "messages", languages=["en"]).kept


def test_the_score_decides_what_is_clear(tmp_path: Path) -> None:
    row = {"text": "Guten Morgen", "label": 0}
    code, score, is_ours = language.told(row["text"], ["en"])
    assert code == "de" and score < 0.7 and not is_ours
    assert not cleaned(tmp_path, [row], languages=["en"], min_score=score - 0.01).kept
    assert cleaned(tmp_path, [row], languages=["en"], min_score=score + 0.01).kept


def test_another_version_of_the_library_is_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Data.model_validate(freeze({"clean": [{"name": "drop_language", "languages": ["en"]}]}))
    before = Cleaning(data, "train", ("text",)).ingredients(0)
    monkeypatch.setattr(language, "version", lambda name: "0.0")
    assert Cleaning(data, "train", ("text",)).ingredients(0) != before


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("languages: []", "data.clean.0.languages"),
        ("languages: [EN]", "data.clean.0.languages.0"),
        ("languages: [en, xx]", "data.clean.0.languages.1: xx is none of the languages that can be told: ace, af,"),
        ("languages: [en], columns: [label]", "label is none of the columns of text_classification"),
    ],
)
def test_what_cannot_be_told_is_refused_in_the_recipe(step: str, says: str) -> None:
    shipped = Path(__file__).parent.parent.parent / "recipes" / "bert_text_classification.yaml"
    with pytest.raises(RecipeError) as refused:
        recipe.load(shipped, [f"data.clean=[{{name: drop_language, {step}}}]"])
    assert says in str(refused.value).replace("key ", "")


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    language._identifier.cache_clear()
    with pytest.raises(EnvironmentProblem, match=r"finetune-launcher\[languages\]"):
        language.known()
    language._identifier.cache_clear()
