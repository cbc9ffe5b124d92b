"""report.html: everything is there, nothing is loaded from elsewhere, nothing in a run folder becomes markup."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import fake_run
import pytest
from fake_run import make_run

from launcher import report
from launcher.errors import EnvironmentProblem
from launcher.report import charts, words
from launcher.run_folder import RunFolder
from launcher.verbs import report as verb

VOID = {"meta", "input", "br", "img", "link", "hr"}
HOSTILE = (
    "</script></textarea><script>alert(1)</script><img src=x onerror=alert(2)>\"' onload='x' &amp; {{ 7*7 }} \x00\ud800"
)


class Page(HTMLParser):
    """The parsed page: tags with attributes, text, and a failure when a tag is closed that is not the open one."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text += data if self.open and self.open[-1] not in ("style", "script") else ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(path: Path) -> Page:
    return Page(report.render(RunFolder(path)))


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path / "gpt_lora")


def test_page_is_whole_and_loads_nothing(run):
    page = page_of(run)
    assert "gpt_lora" in page.text and "causal_lm · lora · assets/tiny-gpt" in page.text
    for section in ("curves", "evaluation", "samples", "attempts", "plan", "recipe", "environment"):
        assert {"id": section} in [{"id": a.get("id")} for a in page.all("section")]
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object"), tag
        assert not {"src", "srcset", "data"} & set(attributes), (tag, attributes)
        assert attributes.get("href", "#").startswith("#"), attributes
        assert not [name for name in attributes if name.startswith("on")], attributes
    assert not re.search(r"@import|url\(|https?://", report.render(RunFolder(run)))


def test_every_logged_quantity_has_a_curve(run):
    page = page_of(run)
    drawn = {figure["data-metric"] for figure in page.all("figure")}
    logged = {key for record in fake_run.metrics() for key in record if "/" in key}
    assert drawn == logged - {"train/loss", "eval/loss"} | {"loss"}
    for svg in page.all("svg"):
        assert svg["role"] == "img" and "ends at" in svg["aria-label"]
    assert len(page.all("title")) >= len(page.all("svg"))


def test_curves_hold_the_numbers_of_the_metrics_file(run):
    records = RunFolder(run).metrics()
    hover = json.loads(page_of(run).all("svg")[0]["data-hover"])
    for series, metric in zip(hover["series"], ("train/loss", "eval/loss"), strict=True):
        expected = [(r["step"], r[metric]) for r in records if metric in r]
        assert series["step"] == [step for step, _ in expected]
        assert series["value"] == pytest.approx([value for _, value in expected], rel=1e-5)


def test_evaluation_table_states_before_after_and_change(run):
    evaluations = [r for r in RunFolder(run).metrics() if "eval/loss" in r]
    before, after = evaluations[0]["eval/loss"], evaluations[-1]["eval/loss"]
    text = page_of(run).text
    for shown in (f"{before:.3f}", f"{after:.3f}", f"−{before - after:.3f}", f"−{(before - after) / before * 100:.1f}"):
        assert shown in text
    assert "▼ better" in text and "▲ better" in text and "worse" not in text


def test_everything_is_escaped(tmp_path):
    position = {"step": 0, "time": 0.0}
    run = make_run(
        tmp_path / "hostile",
        recipe=f"name: {json.dumps(HOSTILE)}\ntask: {json.dumps(HOSTILE)}\n",
        samples=[{"prompt": HOSTILE, "reference": HOSTILE, "base": HOSTILE, "tuned": HOSTILE}] * 4,
        plan={"values": {HOSTILE: {"value": {HOSTILE: HOSTILE}, "origin": HOSTILE}}, HOSTILE: HOSTILE},
        environment={
            HOSTILE: {HOSTILE: HOSTILE},
            "data": [{HOSTILE: HOSTILE}],
            "command": [HOSTILE],
            "commit": HOSTILE,
        },
        attempts=[fake_run.start(HOSTILE, host=HOSTILE), fake_run.end(HOSTILE, exit_code=HOSTILE, error=HOSTILE)],
        metrics=[position | {f"eval/{HOSTILE}": 1.0}, position | {"step": 9, f"eval/{HOSTILE}": 2.0}],
    )
    page = Page(report.write(run).read_text(encoding="utf-8"))
    assert len(page.all("script")) == 1 and not page.all("img")
    assert "49" not in page.text.replace(str(tmp_path), "")  # whose number may hold it
    assert page.text.count("<script>alert(1)</script>") >= 20
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], attributes


@pytest.mark.parametrize("missing", ["metrics", "attempts", "plan", "environment", "samples", "recipe"])
def test_a_missing_file_leaves_a_sentence(tmp_path, missing):
    page = page_of(make_run(tmp_path / "run", **{missing: None}))
    assert any("missing" in (p.get("class") or "") for p in page.all("p")) or missing == "attempts"
    assert "None" not in page.text


@pytest.mark.parametrize("garbage", ["", "[]", "{}", "null", "{", '"text"', "[1, 2]", '{"step": "x"}\n3\n', "\x00\xff"])
def test_no_content_of_a_file_breaks_the_page(tmp_path, garbage):
    for number, stem in enumerate(("metrics", "attempts", "plan", "environment", "samples", "recipe")):
        run = make_run(tmp_path / f"run{number}", **{stem: garbage})
        (run / "schedule.json").write_text(garbage, encoding="latin-1")
        page_of(run)
    everything = dict.fromkeys(("metrics", "attempts", "plan", "environment", "samples", "recipe"), garbage)
    page_of(make_run(tmp_path / "all", **everything))


@pytest.mark.parametrize("odd", [None, "x", True, -1, 1e300, math.nan, [1], {"a": 1}])
def test_no_odd_value_breaks_the_page(tmp_path, odd):
    fields = ("attempt", "time", "host", "pid", "world", "first_step", "last_step", "exit_code", "error")
    ended = {"event": "end"} | dict.fromkeys(fields, odd)
    metric = dict.fromkeys(("epoch", "tokens", "time", "train/loss", "eval/loss"), odd)
    schedule = {"stages": [[odd, odd], odd], "learning_rate": [[1, odd], [odd, odd], odd]}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "schedule.json").write_text(json.dumps(schedule))
    page_of(
        make_run(
            tmp_path / "run",
            attempts=[{**ended, "event": "start"}, ended, {**ended, "event": "start"}],
            metrics=[{"step": 1, **metric}, {"step": odd, **metric}, {"step": 3, **metric}],
            samples=[dict.fromkeys(("prompt", "reference", "base", "tuned"), odd)],
            plan={"values": {"a": odd, "b": {"value": odd, "origin": odd}}, "c": odd},
            environment=dict.fromkeys(("versions", "hardware", "world", "commit", "data", "model", "command"), odd),
            recipe=json.dumps(dict.fromkeys(("name", "task", "method", "model", "evaluation"), odd)),
        )
    )


def test_an_empty_folder_still_makes_a_page(tmp_path):
    text = page_of(tmp_path).text
    for sentence in ("has not started", "nothing to draw", "was not evaluated", "No sample answers", "No process"):
        assert sentence in text


def test_one_evaluation_is_not_called_a_change(tmp_path):
    text = page_of(make_run(tmp_path / "run", metrics=[{"step": 0, "eval/loss": 2.5}])).text
    assert "Only one evaluation was made" in text and "2.500" in text and "better" not in text


def test_what_cannot_be_read_is_named(tmp_path):
    lines = '{"step": 1, "train/loss": 2.0}\n{"step": 2, "tra'
    assert "metrics.jsonl:2 cannot be read" in page_of(make_run(tmp_path / "run", metrics=lines)).text


def test_not_finite_values_are_left_out_of_the_curve(tmp_path):
    metrics = [
        {"step": s, "train/loss": math.nan if s == 2 else 2.0 / s, "train/grad_norm": math.inf} for s in range(1, 5)
    ]
    page = page_of(make_run(tmp_path / "run", metrics=metrics))
    assert [figure["data-metric"] for figure in page.all("figure")] == ["loss"]
    assert json.loads(page.all("svg")[0]["data-hover"])["series"][0]["step"] == [1, 3, 4]


def test_a_failed_attempt_shows_its_error_and_the_resume(run):
    text = page_of(run).text
    assert "Why it stopped" not in text and "stopped by SIGTERM" in text and "150 to 300" in text and "resumed" in text


def test_a_failed_run_says_why_at_the_top(tmp_path):
    attempts = [fake_run.start(), fake_run.end(exit_code=91, error="rank 0 ran out of memory at step 7")]
    text = page_of(make_run(tmp_path / "run", attempts=attempts, metrics=None, samples=None)).text
    assert text.index("Why it stopped: failed (91): out of memory") < text.index("Curves", text.index("Environment"))
    assert "rank 0 ran out of memory at step 7" in text and "Trained for" not in text


def test_a_long_run_stays_a_small_page_and_keeps_its_extremes(tmp_path):
    metrics = [{"step": s, "train/loss": 1 + 1 / s + (7.5 if s == 44_444 else 0)} for s in range(1, 60_001)]
    run = make_run(tmp_path / "run", metrics=metrics)
    hover = json.loads(page_of(run).all("svg")[0]["data-hover"])["series"][0]
    assert report.write(run).stat().st_size < 300_000
    assert 44_444 in hover["step"] and hover["step"][0] == 1 and hover["step"][-1] == 60_000
    assert "of 60,000 values drawn" in page_of(run).text


@pytest.mark.parametrize(
    ("low", "high"), [(0, 300), (1.7, 5.6), (0, 2e-4), (-3, 4), (10_999, 11_001), (0, 1), (5, 5.0001)]
)
def test_ticks_are_round_and_inside(low, high):
    ticks = charts.ticks(low, high, 5)
    assert 3 <= len(ticks) <= 11 and low <= ticks[0] and ticks[-1] <= high * (1 + 1e-9)
    steps = {f"{b - a:.1e}" for a, b in zip(ticks, ticks[1:], strict=False)}
    assert len(steps) == 1 and steps.pop()[:3] in ("1.0", "2.0", "5.0")


def test_one_spike_leaves_no_tail_in_the_trend():
    flat = [2.0] * 50
    assert charts.smoothed(flat) == pytest.approx(flat)
    assert charts.smoothed(flat[:25] + [90.0] + flat[:25]) == pytest.approx([2.0] * 51)


def test_the_trend_follows_a_steep_start():
    falling = [8 * math.exp(-i / 100) for i in range(2000)]
    # Away from the ends, where one side alone is left, the two sides cancel to second order: (20 / 100)^2.
    apart = [abs(a / b - 1) for a, b in zip(charts.smoothed(falling), falling, strict=True)]
    assert max(apart[100:-100]) < 0.05
    assert charts.smoothed([float(i) for i in range(400)])[200] == pytest.approx(200)


def frame_notes(values: list[float], look: str = "line") -> tuple[list[str], list[float]]:
    series = charts.Series("x", list(enumerate(values)), look)
    drawing = charts.draw([series], (400, 200), charts.Steps(0, len(values), []))
    return drawing.notes, json.loads(drawing.hover)["series"][0]["y"]


def test_only_a_lone_spike_is_cut_and_it_is_said():
    flat = [1.0 + 0.1 * (i % 3) for i in range(60)]
    assert frame_notes([*flat, 40.0, *flat])[0] == ["1 value above the frame, up to 40.00"]
    for values, look in (([9.0, 8.0, 6.0, *flat], "line"), ([40.0, *flat], "dots")):
        notes, y = frame_notes(values, look)
        assert notes == [] and y[0] == min(y) and y[0] > charts.TOP


def test_values_over_several_powers_of_ten_get_a_logarithmic_scale():
    assert frame_notes([10.0 ** (-i / 10) for i in range(60)])[0] == ["logarithmic scale"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.10345, "2.103"), (40960, "40,960"), (0.0002, "2e−4"), (9800.4, "9,800"), (0, "0"), (-0.5, "−0.5000"),
     (None, "–"), (math.nan, "nan"), (0.9999999, "1.000"), (1e20, "1e20")],
)  # fmt: skip
def test_numbers_are_written_for_reading(value, text):
    assert words.number(value) == text


def test_verb_writes_the_page_and_prints_its_path(run, capsys):
    assert verb.run(type("Args", (), {"run": str(run)})) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert not (run / ".report.html.part").exists()


def test_verb_refuses_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(EnvironmentProblem, match="is not a run folder"):
        verb.run(type("Args", (), {"run": str(tmp_path)}))
