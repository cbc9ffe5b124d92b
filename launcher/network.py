"""Which network interface gloo talks through, where a run has several nodes.

Gloo takes the address that the host's own name stands for. On many systems that is 127.0.1.1 or none at all, and the other
nodes are then told to find this one at their own loopback address. What surely leads to the others is the way to MASTER_ADDR.
(NCCL looks at the interfaces themselves, and needs no help.)
"""

import fcntl
import os
import socket
import struct

from launcher import log
from launcher.errors import EnvironmentProblem

VARIABLE = "GLOO_SOCKET_IFNAME"
SIOCGIFFLAGS, SIOCGIFADDR = 0x8913, 0x8915  # linux/sockios.h
IFF_UP, IFF_RUNNING = 0x1, 0x40  # linux/if.h


def choose_interface(nodes: int) -> None:
    """Set GLOO_SOCKET_IFNAME, unless the user has, or all processes are on this host. To be called before a process group."""
    master = os.environ.get("MASTER_ADDR", "")
    if nodes == 1 or VARIABLE in os.environ or _is_loopback(master):
        return
    name = _interface_to(master) or _only_interface(master)
    os.environ[VARIABLE] = name
    log.say(f"gloo talks through {name} ({_address(name)}), on the way to {master}; {VARIABLE} would name another")


def _is_loopback(host: str) -> bool:
    """Whether a host is named as this machine itself, in a way that holds on any."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _interface_to(host: str) -> str | None:
    """The interface whose address this machine uses towards a host; None where that is itself, under a loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # sends nothing: the kernel only looks up the route
        except OSError as error:
            raise EnvironmentProblem(
                f"{socket.gethostname()} finds no way to MASTER_ADDR: {error.strerror}",
                where=host,
                fix=f"give an address that all nodes reach, or name the interface in {VARIABLE}",
            ) from None
        own = probe.getsockname()[0]
    return next((name for name, address in _interfaces().items() if address == own and not _is_loopback(own)), None)


def _only_interface(master: str) -> str:
    """This host is MASTER_ADDR and knows itself by a loopback address, so it must have a single way out."""
    names = [name for name, address in _interfaces().items() if not _is_loopback(address) and _is_running(name)]
    if len(names) == 1:
        return names[0]
    raise EnvironmentProblem(
        f"{socket.gethostname()} looks up MASTER_ADDR {master} as a loopback address, and has the interfaces "
        f"{', '.join(names) or '(none that is up)'}",
        fix=f"export {VARIABLE} with the one that the other nodes reach, or give MASTER_ADDR as a number",
    )


def _interfaces() -> dict[str, str]:
    """Name -> IPv4 address, of those that have one."""
    found = {name: _address(name) for _, name in socket.if_nameindex()}
    return {name: address for name, address in found.items() if address}


def _is_running(name: str) -> bool:
    """Up and with a carrier: a bridge without containers, or a port without a cable, is not."""
    flags = struct.unpack_from("H", _ask(name, SIOCGIFFLAGS) or b"\0\0", 0)[0]
    return bool(flags & IFF_UP and flags & IFF_RUNNING)


def _address(name: str) -> str | None:
    answer = _ask(name, SIOCGIFADDR)
    return socket.inet_ntoa(answer[4:8]) if answer else None


def _ask(name: str, request: int) -> bytes | None:
    """The kernel's answer about an interface, without its name; None where it has none (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            return fcntl.ioctl(probe, request, struct.pack("256s", name.encode()[:15]))[16:]
        except OSError:
            return None
