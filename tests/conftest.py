"""What holds for every test: no network, a site secret of its own, fixed seeds, and real data only where it lies.

Set when this file is read, so that it also holds for doctests, for libraries that look at the environment
on import, and for the commands that tests start.
"""

import ipaddress
import os
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MONAI_EVAL_EXPR": "0",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "Agg",
    # A command started by a test has its own sockets: a proxy that does not answer keeps it at home too.
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "localhost,127.0.0.1,::1",
}
os.environ.update(ENVIRONMENT | {name.lower(): value for name, value in ENVIRONMENT.items() if "PROXY" in name})

# The same examples in every run, and none fails because the machine is busy elsewhere.
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

refused_connections: list[str] = []


class NetworkRefusedError(RuntimeError):
    """A test reached for the network. Not an OSError, so that no retry loop takes it for a bad line."""


def is_loopback(host: object) -> bool:
    """Return whether `host` means this machine; names are not looked up.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("192.0.2.1"), is_loopback("example.org")
    (True, True, False, False)
    """
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost", "0.0.0.0", "::", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(str(name)).is_loopback
    except ValueError:
        return False


def refuse(host: object) -> NetworkRefusedError:
    """Record the attempt, so that the test fails even where the error is swallowed, and return the error."""
    refused_connections.append(str(host))
    return NetworkRefusedError(
        f"this test reached for {host!r}: tests may only talk to loopback. Put what it needs into the "
        "repository or make it with tests/factories.py."
    )


def pytest_sessionstart() -> None:
    """Let sockets of this process reach loopback and nothing else, until it ends."""
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_loopback(host):
            raise refuse(host)
        return look_up(host, *args, **kwargs)

    def guarded(method: Any) -> Any:
        def call(self: socket.socket, *args: Any) -> Any:
            address = args[-1]  # sendto(data, [flags,] address)
            inet = self.family in (socket.AF_INET, socket.AF_INET6)
            if inet and isinstance(address, tuple) and not is_loopback(address[0]):
                raise refuse(address[0])
            return method(self, *args)

        return call

    socket.getaddrinfo = getaddrinfo
    for name in ("connect", "connect_ex", "sendto"):
        setattr(socket.socket, name, guarded(getattr(socket.socket, name)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that asks for the fixture `shared`, and skip the marked where there is no real data."""
    for item in items:
        if "shared" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.realdata)
        if item.get_closest_marker("realdata") and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"real data: no folder {SHARED.name}/ beside the checkout"))


@pytest.fixture
def shared() -> Path:
    """The folder of public data sets beside the checkout; asking for it marks the test `realdata`."""
    return SHARED


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Fail a test that reached for the network, also where the code under test swallowed the refusal."""
    refused_connections.clear()
    yield
    if refused_connections:
        pytest.fail(f"reached for the network: {', '.join(refused_connections)}")


@pytest.fixture(autouse=True)
def site_secret(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with this test's own site secret, where deidentify looks for it; outside tmp_path."""
    file = tmp_path_factory.mktemp("site") / "secret"
    file.write_text("5ec0de" * 10 + "beef\n")  # 64 hexadecimal digits
    file.chmod(0o600)
    monkeypatch.setenv("MEDMLLM_SITE_SECRET_FILE", str(file))
    return file


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Start every test from the same random state; torch only where something has loaded it."""
    random.seed(20)
    np.random.seed(20)  # noqa: NPY002 - the legacy state is the one that libraries read
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(20)
