"""A PostgreSQL server of the tests' own: in a folder that is thrown away, reached by a socket in it, never by the network."""

import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# It refuses to run as root; Debian's package brings this user.
USER = "postgres" if os.geteuid() == 0 else None
SETTINGS = {"listen_addresses": "", "fsync": "off", "max_connections": "40"}


def missing() -> str:
    """What a server needs that is not here, or an empty string."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed"
    return "" if _programs() else "PostgreSQL's server is not installed"


def _programs() -> Path | None:
    """The folder of initdb and pg_ctl; Debian keeps each version's apart from PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextmanager
def server() -> Iterator[str]:
    """The address of a running server with an empty database."""
    programs = _programs()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path has a hundred letters at most
    if USER:
        shutil.chown(folder, USER)
    try:
        _run([programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "sweeper", "--no-sync"])
        options = " ".join(f"-c {key}='{value}'" for key, value in SETTINGS.items())
        _run(
            [
                programs / "pg_ctl",
                "-D",
                folder / "data",
                "-w",
                "-l",
                folder / "log",
                "-o",
                f"-k {folder} {options}",
                "start",
            ]
        )
        yield f"postgresql://sweeper@/postgres?host={folder}"
        _run([programs / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(words: Sequence[str | Path]) -> None:
    done = subprocess.run(
        [str(word) for word in words],
        user=USER,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert done.returncode == 0, f"{getpass.getuser()}: {done.stderr.decode()}"
