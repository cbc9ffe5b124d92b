"""What the kernel benchmark says: true numbers for whoever can run, a reason for everyone else, and never nothing."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

KERNELS = Path(__file__).parents[2] / "kernels"
sys.path.insert(0, str(KERNELS))

import bench  # noqa: E402
import bench_cases  # noqa: E402
import bench_exact  # noqa: E402
import bench_measure  # noqa: E402
import bench_providers  # noqa: E402
import bench_race  # noqa: E402


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(report, standard output, drawing) of the smoke preset."""
    folder = tmp_path_factory.mktemp("bench")
    words = [
        "--preset",
        "smoke",
        "--device",
        "cpu",
        "--markdown",
        "--json",
        folder / "r.json",
        "--plot",
        folder / "p.svg",
    ]
    done = subprocess.run([sys.executable, KERNELS / "bench.py", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in folder.glob("*.json*")] == ["r.json"]
    return json.loads((folder / "r.json").read_text()), done.stdout, (folder / "p.svg").read_text()


def measured(case):
    return {name: numbers for name, numbers in case["providers"].items() if "error" in numbers}


def test_every_provider_of_every_case_has_numbers_or_a_reason(run):
    report, *_ = run
    assert [case["complete"] for case in report["cases"]] == [True] * len(bench_cases.PRESETS["smoke"].cases)
    for case in report["cases"]:
        known = bench_providers.LINEAR if case["hidden"] else bench_providers.LOGITS
        assert list(case["providers"]) == [provider.name for provider in known]
        for numbers in case["providers"].values():
            assert "failed" not in numbers
            assert isinstance(numbers.get("skipped"), str) or numbers["forward_backward_ms"]["p50"] > 0


def test_ours_runs_in_every_case_and_is_as_exact_as_unfused(run):
    report, *_ = run
    for case in report["cases"]:
        found = measured(case)
        assert {"ours", "unfused"} <= set(found)
        for name in (name for name in found if name.startswith("ours")):
            for gradient, error in found[name]["error"].items():
                assert error <= 1.5 * found["unfused"]["error"][gradient] + 1e-7, (case["name"], name, gradient)


def test_unfused_is_what_others_are_measured_by_and_everybody_needs_memory(run):
    report, *_ = run
    for case in report["cases"]:
        assert case["providers"]["unfused"]["time_ratio"] == 1
        for numbers in measured(case).values():
            assert numbers["extra_bytes"] > 0
            assert numbers["forward_backward_ms"]["rounds"] == 3
            assert all(math.isfinite(error) for error in numbers["error"].values())


def test_variants_train_what_they_say(run):
    report, *_ = run
    trained = {case["head"]: set(measured(case)["ours"]["error"]) for case in report["cases"] if case["hidden"]}
    assert trained == {"trained": {"loss", "x", "weight"}, "frozen": {"loss", "x"}, "lora": {"loss", "x", "A", "B"}}
    assert {case["counted_rows"] for case in report["cases"] if case["ignored"]} == {48}
    assert "stream" in str(measured(report["cases"][1])["ours, stream"]["note"])


def test_the_report_names_no_place(run):
    report, out, drawing = run
    everything = json.dumps(report) + out + drawing
    assert str(Path.home()) not in everything and sys.prefix not in everything and str(KERNELS) not in everything
    assert (
        bench_race.without_places("OSError: /home/who/lib/x.so: no such file\n  more") == "OSError: x.so: no such file"
    )


def test_tables_and_drawing_show_every_provider(run):
    report, out, drawing = run
    for case in report["cases"]:
        assert case["name"] in out
    for name in measured(report["cases"][0]):
        assert re.search(rf"^\| (\*\*)?{re.escape(name)}(\*\*)? \| [\d.,]+ \|", out, re.MULTILINE)
        assert f">{name}</text>" in drawing
    assert "liger-kernel is not installed" in out or "needs a CUDA GPU" in out


# --- what a run survives ---


class Ticks(bench_measure.Deadline):
    """Time is up at the n-th check."""

    def __init__(self, checks):
        super().__init__(None)
        self.left = checks

    def check(self):
        self.left -= 1
        if self.left < 0:
            raise bench_measure.OutOfTime


def tiny_bench(tmp_path, deadline):
    made = bench.Bench(bench_cases.PRESETS["smoke"], "cpu", deadline, tmp_path / "r.json")
    made.words = ["unfused", "recompute"]
    return made


def test_out_of_time_keeps_what_was_measured(tmp_path):
    """One case takes 1 + 2 + 2 x 3 x 2 checks; the second ends in the middle of its race's second round."""
    tiny_bench(tmp_path, Ticks(15 + 6)).run()
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["out_of_time"] and [case["complete"] for case in report["cases"]] == [True, False]
    half = report["cases"][1]["providers"]
    rounds = {name: numbers["forward_backward_ms"]["rounds"] for name, numbers in half.items()}
    assert rounds == {"unfused": 1, "ours, recompute": 2} and half["ours, recompute"]["time_ratio"] > 0
    assert len(report["skipped"]) == len(bench_cases.PRESETS["smoke"].cases) - 2


def test_alarm_ends_what_takes_too_long_inside_of_a_call(tmp_path, monkeypatch):
    def endless(_):
        while True:
            pass

    slow = bench_providers.Provider("unfused, endless", endless)
    monkeypatch.setattr(bench, "LINEAR", [bench_providers.LINEAR[0], slow])
    report = tiny_bench(tmp_path, bench_measure.Deadline(2)).run()
    assert report["out_of_time"] and "error" in report["cases"][0]["providers"]["unfused"]


def test_a_provider_that_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch):
    def wrong(_):
        return lambda inputs: (inputs.x * float("nan")).sum() + 0 * inputs.weight.sum()

    def broken(_):
        raise ImportError("no kernel in /opt/secret/place/x.so")

    bad = [bench_providers.Provider("unfused, wrong", wrong), bench_providers.Provider("unfused, broken", broken)]
    monkeypatch.setattr(bench, "LINEAR", [*bad, bench_providers.LINEAR[0]])
    found = tiny_bench(tmp_path, Ticks(10**6)).run()["cases"][0]["providers"]
    assert found["unfused, broken"] == {"failed": "ImportError: no kernel in x.so"}
    assert "not finite" in found["unfused, wrong"]["failed"] and found["unfused"]["time_ratio"] == 1


# --- what the numbers rest on ---


@pytest.mark.parametrize("head", ["trained", "lora"])
def test_gradients_by_hand_are_those_of_autograd(head, monkeypatch):
    monkeypatch.setattr(bench_exact, "BLOCK", 40 * 7)  # rows
    inputs = bench_cases.make(bench_cases.Case(24, 32, 40, "float64", head=head, ignored=0.5), "cpu")
    truth = bench_exact.exact(inputs)
    loss = torch.nn.functional.cross_entropy(inputs.x @ inputs.merged_weight().t(), inputs.target)
    gradients = torch.autograd.grad(loss, list(inputs.trained().values()))
    assert loss.item() == pytest.approx(truth.loss, rel=1e-12)
    assert set(inputs.trained()) == set(truth.gradients)
    for name, gradient in zip(inputs.trained(), gradients, strict=True):
        torch.testing.assert_close(gradient, truth.gradients[name], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("vocabulary, hidden", [(1000, 64), (8000, 128)])
def test_peaked_data_is_right_half_of_the_time(vocabulary, hidden):
    inputs = bench_cases.make(bench_cases.Case(512, hidden, vocabulary, "float32"), "cpu")
    assert 0.35 < bench_exact.exact(inputs).median_probability < 0.65


def test_peak_memory_is_counted_to_the_byte():
    def work():
        big = torch.empty(10_000, dtype=torch.uint8)
        del big
        return torch.empty(3_000, dtype=torch.uint8)

    result, peak = bench_measure.peak_bytes(work, "cpu")
    assert peak == 10_000 and bench_measure.returned_bytes([result], []) == 3_000
    assert bench_measure.returned_bytes([result.view(-1)], [result]) == 0
