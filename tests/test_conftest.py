"""The walls around the tests hold."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import conftest
from tests.conftest import NetworkRefusedError


@pytest.fixture
def forgiven():
    """Let a test provoke refusals on purpose."""
    yield
    conftest.refused_connections.clear()


@pytest.mark.parametrize("address", ["192.0.2.1", "8.8.8.8"])
def test_connecting_anywhere_but_loopback_is_refused(address: str, forgiven: None) -> None:
    with socket.socket() as line, pytest.raises(NetworkRefusedError, match=address):
        line.connect((address, 80))
    with socket.socket() as line, pytest.raises(NetworkRefusedError):
        line.connect_ex((address, 80))
    with socket.socket(type=socket.SOCK_DGRAM) as line, pytest.raises(NetworkRefusedError):
        line.sendto(b"", (address, 53))


def test_no_name_is_looked_up(forgiven: None) -> None:
    with pytest.raises(NetworkRefusedError, match=r"example\.org"):
        socket.create_connection(("example.org", 80))
    assert conftest.refused_connections == ["example.org"]


def test_loopback_stays_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_a_command_started_by_a_test_meets_a_proxy_that_does_not_answer() -> None:
    show = "import urllib.request as u; print(*sorted(u.getproxies().items()))"
    proxies = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True).stdout
    assert "('http', 'http://127.0.0.1:9') ('https', 'http://127.0.0.1:9')" in proxies
    fetch = "import urllib.request as u; u.urlopen('http://192.0.2.1/', timeout=5)"
    run = subprocess.run([sys.executable, "-c", fetch], capture_output=True, text=True, check=False)
    assert "Connection refused" in run.stderr


def test_every_test_has_a_site_secret_that_only_its_owner_reads(site_secret: Path, tmp_path: Path) -> None:
    assert os.environ["MEDMLLM_SITE_SECRET_FILE"] == str(site_secret)
    assert len(bytes.fromhex(site_secret.read_text())) == 32
    assert site_secret.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == []  # the secret does not lie where a test counts its files


def test_made_up_examples_are_the_same_in_every_run_and_may_take_any_time() -> None:
    now = settings()
    assert (now.derandomize, now.deadline) == (True, None)
    assert HealthCheck.too_slow in now.suppress_health_check


def test_a_swallowed_refusal_still_fails_the_test(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(Path(conftest.__file__).read_text())
    pytester.makepyfile(
        """
        import socket

        def test_swallows():
            try:
                socket.create_connection(("192.0.2.1", 80))
            except RuntimeError:
                pass
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*reached for the network: 192.0.2.1*"])


@pytest.mark.parametrize(("beside", "outcome"), [(True, "passed"), (False, "skipped")])
def test_real_data_is_used_where_it_lies_and_skipped_aloud_elsewhere(
    beside: bool, outcome: str, pytester: pytest.Pytester
) -> None:
    tests = pytester.mkdir("checkout") / "tests"
    tests.mkdir()
    (tests / "conftest.py").write_text(Path(conftest.__file__).read_text())
    (tests / "test_it.py").write_text("def test_it(shared):\n    assert shared.is_dir()\n")
    (pytester.path / "pytest.ini").write_text("[pytest]\nmarkers = realdata: real\naddopts = -ra\n")
    if beside:
        pytester.mkdir("shared")
    result = pytester.runpytest_subprocess(tests, "-p", "no:cacheprovider")
    result.assert_outcomes(**{outcome: 1})
    if not beside:
        result.stdout.fnmatch_lines(["*no folder shared/ beside the checkout*"])
