"""The snippet of kernels/README.md runs as it stands."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "kernels" / "README.md"


def test_the_snippet_runs(capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    names: dict = {}
    exec(compile(snippet, str(README), "exec"), names)
    names["result"].loss.backward()
    assert names["hidden"].grad.any() and names["weight"].grad.any()
    assert capsys.readouterr().out.startswith("chunk, 8,192 positions at a time")
