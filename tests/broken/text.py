"""No recipe at all: the file, and its YAML."""

from broken.case import GOOD, Case

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]\n" for below, name in zip("abcdef", "bcdefg", strict=True)
)

CASES = [
    # the file
    Case("missing file", lambda path: None, "", ": there is no such recipe"),
    Case("directory", lambda path: path.mkdir(), "", ": is a folder, not a recipe file"),
    Case("empty", "", "", ": is empty; a recipe needs at least task"),
    Case("comments only", "# later\n", "", ": is empty"),
    Case("not UTF-8", b"task: causal_lm\nname: caf\xe9\n", "2:10", ": byte 0xe9 is not UTF-8"),
    Case("UTF-16", GOOD.encode("utf-16"), "1:1", ": byte 0xff is not UTF-8"),
    Case("control character", GOOD + "name: a\x00b\n", "5:8", ": the character U+0000 is not allowed in YAML"),
    Case("a list", "- task: causal_lm\n", "1:1", ": a recipe must be a mapping"),
    Case("a sentence", "train my model\n", "1:1", ": a recipe must be a mapping"),
    Case("two documents", GOOD + "---\nseed: 1\n", "5:1", ": a second document"),
    # YAML
    Case("tab", GOOD + "training:\n\tmax_steps: 3\n", "6:1", ": a tab; YAML is indented with spaces"),
    Case("colon in value", GOOD + "name: a: b\n", "5:8", ": a `: ` inside a value"),
    Case("bad indentation", GOOD + "training:\n    max_steps: 3\n  seed: 1\n", "7:3", ": not YAML: the indentation"),
    Case("open bracket", GOOD + "logging: {trackers: [jsonl}\n", "5:27", ": not YAML: a list in [ ] is not closed"),
    Case("open quote", GOOD + 'name: "a\n', "6:1", ": not YAML: a quote is not closed"),
    Case("no colon", GOOD + "seed\n", "6:1", ": not YAML: a `:` is missing"),
    Case("duplicate key", GOOD + "seed: 1\nseed: 2\n", "6:1", ": the key seed is given twice; the first is at "),
    Case("tag", GOOD + "seed: !!python/name:os.system 1\n", "5:7", ": the tag tag:yaml.org,2002:python/name:os.system"),
    Case("harmless tag", GOOD + "name: !!str 1\n", "5:7", ": the tag tag:yaml.org,2002:str"),
    Case("merge key", GOOD + "training:\n  <<: {max_steps: 3}\n", "6:3", ": merge keys (<<) are refused; start from"),
    Case("alias bomb", BOMB + GOOD, "5:4", ": more than 20000 values once the aliases are written out"),
    Case("alias in itself", GOOD + "stages: &s [*s]\n", "5:9", ": this anchor contains itself"),
    Case("unknown alias", GOOD + "seed: *s\n", "5:7", ": not YAML: found undefined alias"),
    Case("deep", GOOD + "stages: " + "[" * 500 + "]" * 500, "5:68", ": more than 60 levels"),
    Case("number as key", GOOD + "1: 2\n", "5:1", ": the key 1 is not text"),
    Case("list as key", GOOD + "? [a]\n: 1\n", "5:3", ": a key must be a name"),
    Case("digits", GOOD + "seed: " + "9" * 5000, "5:7", ": a number of too many digits"),
]
