"""Gloo's interface, without other nodes; tests/multinode has them."""

import socket

import pytest

from launcher import network
from launcher.errors import EnvironmentProblem


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "somewhere")
    monkeypatch.setenv(network.VARIABLE, "to be restored")  # what the code under test sets is taken back
    monkeypatch.delenv(network.VARIABLE)


def chosen(monkeypatch: pytest.MonkeyPatch, route: str, running: dict[str, str]) -> str:
    """The interface for a host whose own address towards MASTER_ADDR is `route`."""
    here = {"lo": "127.0.0.1", "docker0": "172.17.0.1"} | running
    monkeypatch.setattr(network, "_interfaces", lambda: here)
    monkeypatch.setattr(network, "_is_running", lambda name: name != "docker0")
    monkeypatch.setattr(network.socket, "socket", lambda *_: Probe(route))
    network.choose_interface(2)
    return network.os.environ[network.VARIABLE]


class Probe(socket.socket):
    def __init__(self, own: str):
        super().__init__()
        self._own = own

    def connect(self, address: object) -> None:
        pass

    def getsockname(self) -> tuple[str, int]:
        return self._own, 0


def test_the_way_to_the_master_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, "10.1.0.2", {"eth0": "10.0.0.2", "ib0": "10.1.0.2"}) == "ib0"


@pytest.mark.parametrize("itself", ["127.0.1.1", "127.0.0.1"])
def test_a_master_that_knows_itself_as_loopback_takes_its_only_way_out(
    monkeypatch: pytest.MonkeyPatch, itself: str
) -> None:
    assert chosen(monkeypatch, itself, {"eth0": "10.0.0.2"}) == "eth0"


def test_of_several_ways_out_none_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentProblem, match="the interfaces eth0, ib0; export GLOO_SOCKET_IFNAME"):
        chosen(monkeypatch, "127.0.1.1", {"eth0": "10.0.0.2", "ib0": "10.1.0.2"})


@pytest.mark.parametrize(("nodes", "master"), [(1, "somewhere"), (2, "127.0.0.1"), (2, "localhost")])
def test_processes_of_one_host_need_no_interface(monkeypatch: pytest.MonkeyPatch, nodes: int, master: str) -> None:
    monkeypatch.setenv("MASTER_ADDR", master)
    network.choose_interface(nodes)
    assert network.VARIABLE not in network.os.environ


def test_the_users_choice_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(network.VARIABLE, "ib7")
    network.choose_interface(2)
    assert network.os.environ[network.VARIABLE] == "ib7"


def test_a_master_that_cannot_be_looked_up_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "no-such-host.invalid")
    with pytest.raises(EnvironmentProblem, match="no-such-host.invalid: .* finds no way to MASTER_ADDR"):
        network.choose_interface(2)


def test_the_kernel_is_asked_about_the_real_interfaces() -> None:
    interfaces = network._interfaces()
    assert interfaces["lo"] == "127.0.0.1" and network._is_running("lo") and not network._is_running("none")
