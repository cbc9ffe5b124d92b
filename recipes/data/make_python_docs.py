"""Make the embedded data and tokenizer from the documentation that a Python interpreter carries.

    python recipes/data/make_python_docs.py            # writes the files beside this script and ../assets/python_gpt
    python recipes/data/make_python_docs.py --check    # writes nothing; exit code 1 when a file would change

Modules in Python are read with `ast`, never imported: an import may open a window (`turtle`), a browser
(`antigravity`) or print a poem (`this`). Modules in C have no source to read; those of `C_MODULES` are imported,
which defines functions and does nothing else. The files depend on the version of Python (and, for `os` and `signal`,
on the system: the shipped ones were made on Linux), on nothing else: names are sorted, choices are hashes of names.
"""

from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import importlib
import inspect
import io
import json
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "assets" / "python_gpt"
VOCABULARY_SIZE = 3072
PAD, END = "<|pad|>", "<|end|>"
SPECIAL_TOKENS = [PAD, END, "<|system|>", "<|user|>", "<|assistant|>"]
MAX_LENGTH = 256

# No documentation of use to a reader: tests, codec tables, bundled applications; `ntpath` repeats `posixpath`.
SKIPPED = {
    "test", "tests", "site-packages", "idlelib", "lib2to3", "distutils", "tkinter", "turtledemo", "encodings",
    "ensurepip", "pydoc_data", "__phello__", "__hello__", "antigravity", "this", "ntpath", "genericpath",
}  # fmt: skip
# Later versions of Python no longer have these (PEP 594).
REMOVED = {
    "aifc", "asynchat", "asyncore", "cgi", "cgitb", "chunk", "crypt", "imghdr", "imp", "mailcap", "nntplib",
    "pipes", "smtpd", "sndhdr", "sunau", "telnetlib", "uu", "xdrlib",
}  # fmt: skip

# A file whose content users know under another module's name.
PUBLIC_NAMES = {"_pyio": "io", "_pydecimal": "decimal", "_collections_abc": "collections.abc", "posixpath": "os.path",
                "concurrent.futures._base": "concurrent.futures", "concurrent.futures.thread": "concurrent.futures",
                "concurrent.futures.process": "concurrent.futures", "zoneinfo._zoneinfo": "zoneinfo",
                "tomllib._parser": "tomllib", "_sitebuiltins": "builtins", "unittest.case": "unittest",
                "unittest.suite": "unittest", "unittest.loader": "unittest", "unittest.runner": "unittest",
                "unittest.result": "unittest", "unittest.async_case": "unittest"}  # fmt: skip

C_MODULES = {"array": "array", "atexit": "atexit", "binascii": "binascii", "builtins": "builtins", "cmath": "cmath",
             "gc": "gc", "itertools": "itertools", "marshal": "marshal", "math": "math", "posix": "os",
             "sys": "sys", "time": "time", "unicodedata": "unicodedata", "_collections": "collections",
             "_contextvars": "contextvars", "_csv": "csv", "_queue": "queue", "_random": "random",
             "_signal": "signal", "_sre": "re", "_struct": "struct"}  # fmt: skip

# What a reader looks for, and the modules where it is found: labels of the sentences in python_topics_*.csv.
TOPICS = {
    "text": {"codecs", "configparser", "csv", "difflib", "email", "gettext", "html", "json", "locale", "mailbox", "plistlib",
             "pprint", "quopri", "re", "reprlib", "shlex", "string", "textwrap", "tomllib", "unicodedata", "xml", "base64"},
    "numbers": {"cmath", "colorsys", "decimal", "fractions", "hashlib", "hmac", "math", "numbers", "random", "secrets",
                "statistics", "binascii", "struct"},
    "dates": {"calendar", "datetime", "sched", "time", "zoneinfo"},
    "files": {"bz2", "dbm", "filecmp", "fileinput", "fnmatch", "glob", "gzip", "io", "lzma", "os", "pathlib", "pickle",
              "shelve", "shutil", "sqlite3", "stat", "tarfile", "tempfile", "zipfile", "zipapp", "zlib"},
    "network": {"ftplib", "http", "imaplib", "ipaddress", "netrc", "poplib", "selectors", "smtplib", "socket", "socketserver",
                "ssl", "urllib", "uuid", "webbrowser", "wsgiref", "xmlrpc"},
    "concurrency": {"asyncio", "concurrent", "contextvars", "multiprocessing", "queue", "signal", "subprocess", "threading"},
    "testing": {"bdb", "cProfile", "doctest", "logging", "pdb", "profile", "pstats", "timeit", "trace", "tracemalloc",
                "unittest"},
    "language": {"abc", "ast", "builtins", "collections", "contextlib", "copy", "dataclasses", "dis", "enum", "functools",
                 "importlib", "inspect", "itertools", "operator", "symtable", "sys", "tokenize", "traceback", "types", "typing",
                 "warnings", "weakref"},
}  # fmt: skip

QUESTIONS = ("What does {} do?", "What is {}?", "Describe {}.", "Explain {} in one sentence.", "What is {} for?")
SIGNATURE_LINE = re.compile(r"^[\w.]+\([^\n]*\)\s*(->[^\n]*|[-=]+.*)?$")
SENTENCE_END = re.compile(r"(?<![.\s]\w)(?<!e\.g)(?<!i\.e)(?<!etc)[.!?](?=\s+[A-Z\"'`(*]|$)")
NOT_PROSE = re.compile(r">>>| -> | = |\[,|\w\(\w+\)\w|::|Deprecated AST node|^Internal:")  # code, usage lines
MACHINE_TEXT = re.compile(r" at 0x[0-9a-f]+|/root/|/home/|/Users/")  # differs from run to run, or from host to host


class Entry(NamedTuple):
    """One documented object: where it is found, what `help` calls its kind, how to call it, what its docstring says."""

    module: str
    name: str  # the full dotted name, `module` included
    kind: str
    signature: str
    doc: str


def is_public(dotted: str) -> bool:
    return not any(part.startswith("_") for part in dotted.split("."))


def python_modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the standard library that is written in Python and has a public name, parsed."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if (SKIPPED | REMOVED).intersection(parts) or parts[0].startswith(("config-", "lib-dynload")):
            continue
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        module = PUBLIC_NAMES.get(module, module)
        if is_public(module) and not module.endswith("__main__"):
            yield module, ast.parse(path.read_text(encoding="utf-8"))


def exported_names(tree: ast.Module) -> set[str]:
    """The strings of `__all__`, which `asyncio` imports into the package from each of its files."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", "") for t in node.targets] == ["__all__"]:
            return {item.value for item in ast.walk(node.value) if isinstance(item, ast.Constant)}
    return set()


def signature_of(node: ast.AST) -> str:
    """`(text, width=70)` of a function; nothing for a class or when it is too long to be learnt."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return ""
    signature = f"({ast.unparse(node.args)})"
    signature = re.sub(r"\((self|cls)(, )?", "(", signature)
    return signature if len(signature) <= 80 else "(...)"


def python_entries(module: str, tree: ast.Module) -> Iterator[Entry]:
    """The documented public functions, classes and methods of one parsed module, after the module itself."""
    exported = exported_names(tree)
    if doc := ast.get_docstring(tree):
        yield Entry(module, module, "module", "", doc)

    def visit(body: list[ast.stmt], prefix: str, inside_class: bool) -> Iterator[Entry]:
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            is_class = isinstance(node, ast.ClassDef)
            kind = "class" if is_class else "method" if inside_class else "function"
            if doc := ast.get_docstring(node):
                yield Entry(module, f"{prefix}.{node.name}", kind, signature_of(node), doc)
            if is_class:
                yield from visit(node.body, f"{prefix}.{node.name}", inside_class=True)

    for node in tree.body:
        top = "asyncio" if module.startswith("asyncio.") and getattr(node, "name", "") in exported else module
        yield from visit([node], top, inside_class=False)


def c_entries(module_name: str, public: str) -> Iterator[Entry]:
    """The same of a module in C, from the docstrings of its own objects (inherited ones would only repeat)."""
    module = importlib.import_module(module_name)
    if not module_name.startswith("_") and module.__doc__:
        yield Entry(public, public, "module", "", inspect.cleandoc(module.__doc__))
    prefix = "" if public == "builtins" else f"{public}."
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or not (callable(value) and isinstance(value.__doc__, str)):
            continue
        kind = "class" if isinstance(value, type) else "function"
        yield Entry(public, prefix + name, kind, c_signature(value), inspect.cleandoc(value.__doc__))
        for method_name, method in sorted(vars(value).items()) if kind == "class" else ():
            doc = getattr(method, "__doc__", None)
            if not method_name.startswith("_") and inspect.isroutine(method) and isinstance(doc, str):
                full_name = f"{prefix}{name}.{method_name}"
                yield Entry(public, full_name, "method", c_signature(method), inspect.cleandoc(doc))


def c_signature(value: object) -> str:
    text = getattr(value, "__text_signature__", None) or ""
    text = re.sub(r"\(\$?(self|module|type|cls)(, )?(/(, )?)?", "(", text).replace(", /", "")
    return text if len(text) <= 80 else "(...)"


def entries() -> list[Entry]:
    """All entries by name, each once: the Python twin of a C function (or the reverse) would only repeat it."""
    found: dict[str, Entry] = {}
    for module, tree in python_modules():
        for entry in python_entries(module, tree):
            found.setdefault(entry.name, entry)
    for module_name, public in C_MODULES.items():
        for entry in c_entries(module_name, public):
            found.setdefault(entry.name, entry)
    return [found[name] for name in sorted(found) if not MACHINE_TEXT.search(found[name].doc)]


def first_sentence(entry: Entry) -> str:
    """The first sentence of a docstring in one line; empty when there is none that could answer a question.

    Docstrings of C functions may begin with lines that repeat the signature, those of modules with a file name.
    """
    lines = entry.doc.strip().splitlines()
    while lines and (SIGNATURE_LINE.match(lines[0].strip()) or not lines[0].strip()):
        lines.pop(0)
    paragraph = " ".join("\n".join(lines).split("\n\n")[0].split())
    paragraph = re.sub(r"^[\w.]+\([^)]*\)\s*(->\s*[^.:]*?)?\s*(--|:)\s*", "", paragraph)  # `name(x) -> y -- text`
    end = SENTENCE_END.search(paragraph)
    sentence = paragraph[: end.end()] if end else paragraph
    if not 3 <= len(sentence.split()) <= 32 or NOT_PROSE.search(sentence) or not sentence[0].isalpha():
        return ""
    return sentence if sentence.endswith((".", "!", "?")) else sentence.rstrip(":;,") + "."


def share(text: str, parts: int) -> int:
    """A number below `parts` that depends on the text only (`hash` changes from process to process)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % parts


def is_held_out(entry: Entry) -> bool:
    """True for about one top-level module of eight; all of a package is held out, or nothing of it."""
    return entry.module != "builtins" and share(entry.module.split(".")[0], 8) == 0


def opening(doc: str, characters: int = 300) -> str:
    """The first paragraphs of a docstring: the first one always, later ones while they fit in `characters`."""
    kept, *others = re.split(r"\n\s*\n", doc.strip())
    for paragraph in others:
        if len(kept) + len(paragraph) > characters:
            break
        kept += "\n\n" + paragraph
    return kept


def texts(all_entries: list[Entry]) -> Iterator[str]:
    """The rows to pre-train on: each docstring's opening under its signature, its first sentence as `apropos` prints
    it (`name - sentence`), and the opening of each topic of `help`."""
    for entry in all_entries:
        body = "\n".join(f"    {line}".rstrip() for line in opening(entry.doc).splitlines())
        yield f"{entry.kind} {entry.name}{entry.signature}\n{body}"
        if sentence := first_sentence(entry):
            yield f"{entry.name} - {sentence}"
    for topic in sorted(topics):
        yield f"topic {topic}\n\n{opening(topics[topic], characters=900)}"


def question_rows(all_entries: list[Entry], held_out: bool) -> Iterator[dict]:
    """Questions about the entries of the held-out modules, or about those of all others."""
    seen_in_training = {first_sentence(entry) for entry in all_entries if not is_held_out(entry)}
    for entry in all_entries:
        answer = first_sentence(entry)
        if not answer or is_held_out(entry) != held_out or (held_out and answer in seen_in_training):
            continue
        question = QUESTIONS[share(entry.name, len(QUESTIONS))].format(entry.name)
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        yield {"messages": messages}


def topic_rows(all_entries: list[Entry], held_out: bool) -> Iterator[dict]:
    """First sentences with their topic; a sentence that stands under several topics, or that names its module, is left out."""
    topic_of = {module: topic for topic, modules in TOPICS.items() for module in modules}
    found: dict[str, set[str]] = {}
    for entry in all_entries:
        module, sentence = entry.module.split(".")[0], first_sentence(entry)
        if sentence and module in topic_of and not re.search(rf"\b{module}\b", sentence, re.IGNORECASE):
            found.setdefault(sentence, set()).add(topic_of[module])
    for sentence, found_topics in found.items():
        if len(found_topics) == 1 and (share(sentence, 6) == 0) == held_out:
            yield {"text": sentence, "label": next(iter(found_topics))}


def shuffled(rows: list[dict]) -> list[dict]:
    """Rows in an order by hash, so that the first rows of a file are a fair sample of it."""
    return sorted(rows, key=lambda row: share(json.dumps(row), 2**63))


def train_tokenizer(rows: list[str]) -> str:
    """A byte-level BPE tokenizer as the text of tokenizer.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(rows, trainer)
    return tokenizer.to_str(pretty=False) + "\n"


def tokenizer_config() -> str:
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_LENGTH,
        "pad_token": PAD,
        "eos_token": END,
        "bos_token": None,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "padding_side": "right",
    }
    return json.dumps(config, indent=2) + "\n"


def json_lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def comma_separated(rows: list[dict]) -> str:
    content = io.StringIO(newline="")
    writer = csv.DictWriter(content, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return content.getvalue()


def make_files() -> dict[Path, str]:
    """Path -> content of every file that this script owns."""
    all_entries = entries()
    rows = list(texts(all_entries))
    return {
        HERE / "python_docs.jsonl": json_lines([{"text": row} for row in rows]),
        HERE / "python_qa_train.jsonl": json_lines(shuffled(list(question_rows(all_entries, held_out=False)))),
        HERE / "python_qa_eval.jsonl": json_lines(shuffled(list(question_rows(all_entries, held_out=True)))),
        HERE / "python_topics_train.csv": comma_separated(shuffled(list(topic_rows(all_entries, held_out=False)))),
        HERE / "python_topics_eval.csv": comma_separated(shuffled(list(topic_rows(all_entries, held_out=True)))),
        MODEL / "tokenizer.json": train_tokenizer(rows),
        MODEL / "tokenizer_config.json": tokenizer_config(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a file would change")
    check = parser.parse_args().check
    changed = False
    for path, content in make_files().items():
        old = path.read_text(encoding="utf-8") if path.exists() else None
        changed |= old != content
        if not check:
            path.write_text(content, encoding="utf-8", newline="\n")
        digest = hashlib.sha256(content.encode()).hexdigest()
        lines, size = content.count("\n"), len(content.encode())
        print(f"{digest} {size:9,} bytes {lines:6} lines  {path.name}{'' if old == content else ' (changed)'}")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
