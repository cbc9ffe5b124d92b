"""Makes numbers_en_de_*.jsonl: numbers in English words with the same in German words. Of no text but these rules.

python recipes/data/make_numbers.py            # write the files beside this script
python recipes/data/make_numbers.py --check    # make them again and compare
"""

import json
import random
import sys
from pathlib import Path

HERE = Path(__file__).parent
TRAIN_ROWS, EVAL_ROWS, SEED = 900, 100, 0
ENGLISH = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
ENGLISH_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
GERMAN = [
    "null",
    "eins",
    "zwei",
    "drei",
    "vier",
    "fünf",
    "sechs",
    "sieben",
    "acht",
    "neun",
    "zehn",
    "elf",
    "zwölf",
    "dreizehn",
    "vierzehn",
    "fünfzehn",
    "sechzehn",
    "siebzehn",
    "achtzehn",
    "neunzehn",
]
GERMAN_TENS = ["zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]


def english(number: int) -> str:
    """0 to 999999: `two thousand three hundred and one`."""
    if number >= 1000:
        thousands, rest = divmod(number, 1000)
        between = " and " if rest < 100 else " "
        return f"{english(thousands)} thousand" + (f"{between}{english(rest)}" if rest else "")
    if number >= 100:
        hundreds, rest = divmod(number, 100)
        return f"{ENGLISH[hundreds]} hundred" + (f" and {english(rest)}" if rest else "")
    if number >= 20:
        tens, rest = divmod(number, 10)
        return ENGLISH_TENS[tens - 2] + (f"-{ENGLISH[rest]}" if rest else "")
    return ENGLISH[number]


def german(number: int, last: bool = True) -> str:
    """0 to 999999: `zweitausenddreihunderteins`. `last`: nothing follows, so that one is `eins` and not `ein`."""
    if number >= 1000:
        thousands, rest = divmod(number, 1000)
        return f"{german(thousands, last=False)}tausend" + (german(rest, last) if rest else "")
    if number >= 100:
        hundreds, rest = divmod(number, 100)
        return f"{german(hundreds, last=False)}hundert" + (german(rest, last) if rest else "")
    if number >= 20:
        tens, rest = divmod(number, 10)
        return (f"{german(rest, last=False)}und" if rest else "") + GERMAN_TENS[tens - 2]
    return "ein" if number == 1 and not last else GERMAN[number]


def files() -> dict[Path, str]:
    """No number stands in both; some have six digits, most fewer."""
    chance = random.Random(SEED)
    numbers = list(
        dict.fromkeys(chance.randrange(10 ** chance.randint(2, 6)) for _ in range(4 * (TRAIN_ROWS + EVAL_ROWS)))
    )
    parts = {"train": numbers[:TRAIN_ROWS], "eval": numbers[TRAIN_ROWS : TRAIN_ROWS + EVAL_ROWS]}
    return {HERE / f"numbers_en_de_{name}.jsonl": "".join(map(_row, part)) for name, part in parts.items()}


def _row(number: int) -> str:
    return json.dumps({"en": english(number), "de": german(number)}, ensure_ascii=False) + "\n"


def main() -> int:
    made = files()
    if "--check" in sys.argv:
        return int(any(path.read_text(encoding="utf-8") != text for path, text in made.items()))
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
