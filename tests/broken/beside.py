"""What lies beside a recipe: data files, the recipe that it extends, the command line."""

from broken.case import GOOD, Case, training_on

CASES = [
    # data files
    Case(
        "missing data",
        training_on("{path: row.jsonl}"),
        "4:23",
        "data.train.0.path: there is no file FOLDER/row.jsonl nor row.jsonl; did you mean FOLDER/rows.jsonl?",
    ),
    Case(
        "missing model folder",
        GOOD.replace("owner/model", "./model"),
        "3:23",
        "model.name_or_path: there is no folder ",
    ),
    Case(
        "missing init",
        GOOD.replace("name_or_path: owner/model", "init: config.json").replace("lora", "full")
        + "tokenizer: {name_or_path: gpt2}\n",
        "3:15",
        "model.init: there is no file ",
    ),
    Case(
        "missing template",
        GOOD + "tokenizer: {chat_template: chat.jinja}\n",
        "5:28",
        "tokenizer.chat_template: there is no file ",
    ),
    Case(
        "unknown column",
        training_on("{path: pairs.csv, columns: {prompt: qestion, completion: answer}}"),
        "4:44",
        "data.train.0.columns.prompt: FOLDER/pairs.csv has no column qestion; did you mean question?",
    ),
    Case(
        "not our column",
        training_on("{path: pairs.csv, columns: {promt: question, completion: answer}}"),
        "4:44",
        "data.train.0.columns.promt: promt is not one of our columns (messages, prompt, completion, ",
    ),
    Case(
        "no format fits", training_on("{path: pairs.csv}"), "4:17", "data.train.0.path: FOLDER/pairs.csv fits no format"
    ),
    Case(
        "a file without a header line",
        training_on("{path: pairs.csv}"),
        "4:17",
        "data.train.0.path: FOLDER/pairs.csv fits no format (messages, prompt + completion, text); the file has question, answer; "
        "name its columns, for example columns: {prompt: ..., completion: ...}, or, where the first line is a row already, all of "
        "them in order with header: [...]",
    ),
    Case(
        "rows of ShareGPT",
        training_on("{path: shared.jsonl}"),
        "4:17",
        "data.train.0.path: FOLDER/shared.jsonl fits no format (messages, prompt + completion, text); the file has conversations; "
        "for ShareGPT's conversations write columns: {messages: conversations}",
    ),
    Case(
        "format without its column",
        training_on("{path: list.json, format: messages}"),
        "4:34",
        "data.train.0.format: messages needs a column messages; the file has prompt, completion",
    ),
    Case(
        "column of another format",
        training_on("{path: rows.jsonl, columns: {text: messages}, format: messages}"),
        "4:45",
        "data.train.0.columns.text: the format messages has no column text",
    ),
    Case(
        "data not JSON",
        training_on("{path: notes.jsonl}"),
        "4:17",
        "data.train.0.path: FOLDER/notes.jsonl line 1 is not JSON",
    ),
    Case(
        "data empty", training_on("{path: empty.jsonl}"), "4:17", "data.train.0.path: FOLDER/empty.jsonl holds no rows"
    ),
    # extends
    Case(
        "extends nothing",
        GOOD + "extends: bse.yaml\n",
        "5:10",
        "extends: there is no file FOLDER/bse.yaml; did you mean FOLDER/base.yaml?",
    ),
    Case("extends a circle", GOOD + "extends: circle.yaml\n", "1:10", "extends: a circle: ", file="circle.yaml"),
    Case(
        "error in the base",
        GOOD + "extends: base.yaml\n",
        "1:28",
        "optimizer.learning_rate: must be a number",
        file="base.yaml",
    ),
    # command line
    Case(
        "override typo",
        GOOD,
        "command line optimizer.lr=1",
        "optimizer.lr is not an option of adamw; did you mean learning_rate?",
        ("optimizer.lr=1",),
    ),
    Case(
        "override type", GOOD, "command line seed=x", 'seed: must be a whole number of at least 0, not "x"', ("seed=x",)
    ),
    Case("override without =", GOOD, "command line seed", ": is not an override; write key.path=value", ("seed",)),
    Case("override without key", GOOD, "command line =3", ": has no key before the `=`", ("=3",)),
    Case("override without value", GOOD, "command line seed=", ": has no value; write seed=null", ("seed=",)),
    Case("override twice", GOOD, "command line seed=2", "seed: is also given as seed=1", ("seed=1", "seed=2")),
    Case(
        "override past the list",
        GOOD,
        "command line data.train.3.path=x",
        "data.train: is a list of 1, counted from 0; it has no item 3",
        ("data.train.3.path=x",),
    ),
    Case(
        "override below a value",
        GOOD + "seed: 1\n",
        "command line seed.x=1",
        "seed: is a single value and has no x",
        ("seed.x=1",),
    ),
    Case(
        "override not YAML",
        GOOD,
        "command line logging.trackers=[a",
        ": not YAML: a list in [ ] is not closed",
        ("logging.trackers=[a",),
    ),
]
