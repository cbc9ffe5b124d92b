"""A target outside the vocabulary: never a number that looks like a loss, and never memory that is not ours."""

import math
import shutil
import subprocess

import pytest
from gpu_cases import start_script

pytestmark = pytest.mark.gpu
BAD = ("-1", "vocabulary", "2**31")
LOSSES = ("logits", "chunk", "recompute", "stream")
SANITIZER_SECONDS = 50

# Words: device, loss, the bad target, "asserts" or "silent". Prints the loss.
SCRIPT = """
import sys
import torch
from launcher_kernels import cross_entropy, linear_cross_entropy, targets
device, name, bad, asserts = sys.argv[1:]
vocabulary = 503
if asserts == "silent":
    targets.check_range = lambda *_: None
torch.manual_seed(0)
x, weight = torch.randn(40, 32, device=device).requires_grad_(), torch.randn(vocabulary, 32, device=device)
target = torch.randint(vocabulary, (40,), device=device)
target[::3] = -100
target[7] = eval(bad)
if name == "logits":
    loss = cross_entropy(x @ weight.t(), target).loss
else:
    loss = linear_cross_entropy(x, weight, target, method=name, n_valid=26).loss
loss.backward()
print(float(loss.detach()))
"""


def ending(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out.strip(), err


def test_they_are_refused(device):
    """By an assertion on the GPU, at the latest when somebody looks at the loss."""
    cases = [(loss, bad) for loss, bad in zip(LOSSES, (*BAD, BAD[0]), strict=True)]
    started = [start_script(SCRIPT, device.type, loss, bad, "asserts") for loss, bad in cases]
    for case, (code, out, err) in zip(cases, map(ending, started), strict=True):
        assert code != 0 and not out, (case, out)
        assert "assert" in err or "outside the vocabulary" in err, (case, err)


def test_they_are_no_number_where_nothing_asserts(device):
    cases = [(loss, bad) for loss, bad in zip(LOSSES, (BAD[1], BAD[2], BAD[1], BAD[2]), strict=True)]
    started = [start_script(SCRIPT, device.type, loss, bad, "silent") for loss, bad in cases]
    for case, (code, out, err) in zip(cases, map(ending, started), strict=True):
        assert code == 0, (case, err)
        assert math.isnan(float(out)), (case, out)


def test_a_wrong_count_is_refused(device):
    source = SCRIPT.replace("n_valid=26", "n_valid=25")
    code, out, err = ending(start_script(source, device.type, "chunk", "5", "asserts"))
    assert code != 0 and not out
    assert "assert" in err or "n_valid 25" in err


@pytest.mark.parametrize("loss", ["logits", "chunk"])
def test_no_memory_is_touched_that_is_not_ours(loss, gpu):
    """NVIDIA's memory checker looks at each access of each kernel."""
    if (checker := shutil.which("compute-sanitizer")) is None:
        pytest.skip("needs compute-sanitizer on the PATH")
    before = (checker, "--tool", "memcheck", "--error-exitcode", "77")
    process = start_script(SCRIPT, gpu.type, loss, "2**31", "silent", before=before)
    try:
        out, err = process.communicate(timeout=SANITIZER_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        pytest.skip(f"compute-sanitizer took more than {SANITIZER_SECONDS} s")
    assert process.returncode == 0, out + err
