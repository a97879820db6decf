"""A real `mlflow server` on loopback for tests, which can die and come back."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

STARTS_WITHIN_S = 240.0  # it takes some seconds on an idle machine, and many times that on a busy one
ENDS_WITHIN_S = 60.0


def unused_port() -> int:
    """Return a port at which nobody listens, and that stays free for whoever is told of it.

    The socket is never closed: while it is bound, the system gives the port to no one who asks for any port. Listening
    there is possible all the same, for servers say SO_REUSEADDR too.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    port = int(holder.getsockname()[1])
    holder.detach()  # else it is closed when it is forgotten
    return port


class Server:
    """A real server on loopback, in a process group of its own, as it is a tree of processes; it can die and return."""

    def __init__(self, folder: Path) -> None:
        self.port = unused_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", "sqlite:///store.db", "--artifacts-destination", "kept"]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        with (self.folder / "server.log").open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=os.environ | {"PATH": path, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait()

    def _wait(self) -> None:
        log = self.folder / "server.log"
        until = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < until:
            assert self.process is not None
            assert self.process.poll() is None, log.read_text()
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=20) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
        pytest.fail(f"no answer within {STARTS_WITHIN_S:.0f} s: {log.read_text()}")

    def die(self) -> None:
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait()
        self.process = None
        # The first of the group is gone; who listens may still be on its way out.
        until = time.monotonic() + ENDS_WITHIN_S
        while self._listens() and time.monotonic() < until:
            time.sleep(0.02)

    def _listens(self) -> bool:
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", self.port)) == 0
