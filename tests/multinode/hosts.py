"""Hosts made of Linux namespaces, joined by a cable; and launcher ranks on them.

Each host has its own name, address, /proc and view of the file system, where a folder can be its own. Nothing needs to be
cleaned up: the first process of a host reads from a pipe of ours and ends with it, and the kernel then ends all others
there and removes its side of the cable. As on Debian, a host looks up its own name as 127.0.1.1.
"""

import ctypes
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import tiny

CLONE_FLAGS = {"net": 0x40000000, "uts": 0x04000000, "mnt": 0x00020000}  # linux/sched.h
PORT = 29500  # the network namespaces are ours alone
# The shell that becomes the first process of a host; it says which process it is outside.
FIRST_PROCESS = """
read -r pid rest </proc/self/stat
mount -t proc proc /proc && mount --bind "$1" /etc/hosts && hostname "$0" && ip link set lo up && echo "$pid" && exec cat
"""


def address(number: int) -> str:
    return f"10.77.0.{number + 1}"


def what_is_missing() -> str | None:
    """Why there can be no hosts here, or None."""
    missing = [program for program in ("unshare", "nsenter", "mount", "ip") if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} not found (util-linux and iproute2 have them)"
    if os.geteuid() != 0:
        return "only root can make namespaces"
    namespaces = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "true"]
    if subprocess.run(namespaces, capture_output=True).returncode != 0:
        return "this root may not make namespaces (a container without CAP_SYS_ADMIN)"
    return None


class Host:
    """One host. `folder` is for its own files, which the others could see but do not look at."""

    def __init__(self, number: int, names: Sequence[str], folder: Path):
        self.name, self.address, self.folder = names[number], address(number), folder / names[number]
        self.folder.mkdir()
        others = [f"{address(i)} {name}" for i, name in enumerate(names) if i != number]
        etc_hosts = self.folder / "hosts"
        etc_hosts.write_text("\n".join(["127.0.0.1 localhost", f"127.0.1.1 {self.name}", *others]) + "\n")
        self._first = subprocess.Popen(
            ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child"]
            + ["sh", "-c", FIRST_PROCESS, self.name, str(etc_hosts)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._first.stdout is not None
        self.pid = int(self._first.stdout.readline())

    def command(self, *words: str) -> list[str]:
        """Words that run a command there, in the caller's folder."""
        enter = ["nsenter", f"--target={self.pid}", "--net", "--uts", "--mount", "--pid"]
        return [*enter, "sh", "-c", 'cd "$0" && exec "$@"', os.getcwd(), *words]

    def call(self, *words: str) -> None:
        subprocess.run(self.command(*words), check=True, capture_output=True)

    def has_of_its_own(self, path: Path) -> Path:
        """From now on, what is at `path` there is not what it is on other hosts. Returns where it is here."""
        own = self.folder / path.name
        if path.is_dir():
            own.mkdir()
        else:
            own.write_bytes(path.read_bytes())
        self.call("mount", "--bind", str(own), str(path))
        return own

    def reads_only(self, folder: Path, but: str | None = None) -> None:
        """From now on, that host can write nothing into a folder, except into one subfolder."""
        if but is not None:
            (own := self.folder / but).mkdir()
            self.call("mount", "--bind", str(folder / but), str(own))
        self.call("mount", "--bind", str(folder), str(folder))
        self.call("mount", "-o", "remount,bind,ro", str(folder))
        if but is not None:
            self.call("mount", "--bind", str(own), str(folder / but))

    def plug(self, state: str) -> None:
        """The cable: `up` or `down`."""
        self.call("ip", "link", "set", "eth0", state)

    def stop(self) -> None:
        """Power off: every process there is killed."""
        self._first.kill()
        self._first.wait()


def pair(folder: Path, names: Sequence[str] = ("node0", "node1")) -> list[Host]:
    """Two hosts with a cable between their eth0."""
    hosts = [Host(number, names, folder) for number in range(2)]
    ends = [["name", "eth0", "netns", str(host.pid)] for host in hosts]
    subprocess.run(["ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1]], check=True)
    for host in hosts:
        host.call("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        host.plug("up")
    for host in hosts:
        host.call("sh", "-c", 'until [ "$(cat /sys/class/net/eth0/operstate)" = up ]; do sleep 0.01; done')
    return hosts


class Ranks:
    """A launcher rank per item of `words`, on `hosts` if given, equally many on each; forked with torch already imported.

    `environment` may hold a variable for each host (`{"XDG_CACHE_HOME": ["/a", "/b"]}`). What a rank prints is in `output(rank)`.
    """

    def __init__(
        self, words: Sequence[Sequence[str]], log: Path, hosts: Sequence[Host] = (), **environment: Sequence[str]
    ):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(tiny.PRELOAD)
        per_host = len(words) // max(1, len(hosts))
        self._logs = [log.with_name(f"{log.name}-{rank}") for rank in range(len(words))]
        self.processes = []
        for rank, said in enumerate(words):
            number = rank // per_host
            variables = {name: values[number] for name, values in environment.items()} | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank % per_host),
                "WORLD_SIZE": str(len(words)),
                "LOCAL_WORLD_SIZE": str(per_host),
                "MASTER_ADDR": hosts[0].name if hosts else "127.0.0.1",
                "MASTER_PORT": str(PORT),
            }
            host_pid = hosts[number].pid if hosts else None
            arguments = (list(said), variables, host_pid, str(self._logs[rank]), os.getcwd())
            self.processes.append(context.Process(target=_rank, args=arguments))
        for process in self.processes:
            process.start()

    def wait(self, seconds: float = 120) -> list[int | None]:
        """Exit codes by rank; None for one that had to be ended after so many seconds."""
        for process in self.processes:
            process.join(seconds)
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        return codes

    def output(self, rank: int) -> str:
        return self._logs[rank].read_text()


def _rank(words: list[str], variables: dict[str, str], host_pid: int | None, log: str, folder: str) -> None:
    with open(log, "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    if host_pid is not None:
        _enter(host_pid)
    os.chdir(folder)
    os.environ |= variables
    from launcher.__main__ import main

    sys.exit(main(words))


def _enter(host_pid: int) -> None:
    """Move this process to a host (setns(2); Python has it from 3.12 on)."""
    libc = ctypes.CDLL(None, use_errno=True)
    opened = [(os.open(f"/proc/{host_pid}/ns/{kind}", os.O_RDONLY), flag) for kind, flag in CLONE_FLAGS.items()]
    for descriptor, flag in opened:
        if libc.setns(descriptor, flag) != 0:
            raise OSError(ctypes.get_errno(), "setns")
