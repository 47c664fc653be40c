"""`policyd up` and `policyd serve` as a user runs them, each a process of its own, watched from outside.

What is known of a running policyd is what its users know: its log lines, its metrics page, and what its gRPC service
answers about the ledger.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import grpc
from prometheus_client.parser import text_string_to_metric_families

from policyd.core.money import NANOS_PER_USD
from policyd.v1.policy_service_pb2 import GetBudgetRequest
from policyd.v1.policy_service_pb2_grpc import PolicyServiceStub
from policyd.v1.verdict_pb2 import Amount

READY_SECONDS_MAX = 60
RECORD_SECONDS_MAX = 15
STOP_SECONDS_MAX = 20
ANSWER_SECONDS_MAX = 10
METRIC_SECONDS_MAX = 10
METRIC_POLL_SECONDS = 0.02

ANY_PORT = "127.0.0.1:0"

POLICY_RELOADS = "policyd_policy_reloads_total"

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Balance:
    """How one limit stands for one scope: nano-USD for a limit of cost, whole units for the others."""

    spent: int
    reserved: int


@dataclass
class Policyd:
    """A running policyd."""

    process: subprocess.Popen[bytes]
    grpc: str = ""
    http: str = ""
    lines: list[Line] = field(default_factory=list)
    """The log lines that were read so far."""
    _incoming: queue.Queue[Line | None] = field(default_factory=queue.Queue)

    # --- the log ---

    def wait_for(self, wanted: Callable[[Line], bool], *, count: int = 1) -> list[Line]:
        """The first `count` log lines that are `wanted`, read ones included; fails if they do not come."""
        found = [line for line in self.lines if wanted(line)]
        while len(found) < count:
            try:
                line = self._incoming.get(timeout=RECORD_SECONDS_MAX)
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"{count} log lines were expected, {len(found)} came; all: {self.lines}")
            self.lines.append(line)
            if wanted(line):
                found.append(line)
        return found[:count]

    def record(self, request_id: str) -> Line:
        """The log line of one exchange."""
        return self.wait_for(lambda line: line.get("request_id") == request_id)[0]

    def records_of(self, project: str, *, count: int = 1) -> list[Line]:
        """The log lines of a project's exchanges, once there are `count` of them."""
        return self.wait_for(lambda line: line.get("attributes", {}).get("project") == project, count=count)

    def drain_log(self) -> list[Line]:
        """Every log line, once the process has ended."""
        while (line := self._incoming.get(timeout=RECORD_SECONDS_MAX)) is not None:
            self.lines.append(line)
        return self.lines

    # --- the ledger ---

    def balance(self, limit: str, **attributes: str) -> Balance:
        """What is spent and reserved of a limit."""
        with grpc.insecure_channel(self.grpc) as channel:
            request = GetBudgetRequest(attributes=attributes)
            answer = PolicyServiceStub(channel).GetBudget(request, timeout=ANSWER_SECONDS_MAX)
        for report in answer.limits:
            if report.name == limit:
                return Balance(spent=_units(report.spent), reserved=_units(report.reserved))
        raise AssertionError(f"no limit {limit} applies to {attributes}; those that do: {answer.limits}")

    # --- the HTTP side ---

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and body of a page that policyd serves itself."""
        connection = http.client.HTTPConnection(self.http, timeout=ANSWER_SECONDS_MAX)
        try:
            connection.request("GET", path, headers=headers)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels; 0 where there are none."""
        _, page = self.get("/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def wait_for_metric(
        self, name: str, value: float, *, seconds_max: float = METRIC_SECONDS_MAX, **labels: str
    ) -> None:
        """Polls until a metric has a value; fails if that does not come about."""
        deadline = time.monotonic() + seconds_max
        while (found := self.metric(name, **labels)) != value:
            assert time.monotonic() < deadline, f"{name} {labels} stays at {found}, expected {value}"
            time.sleep(METRIC_POLL_SECONDS)

    # --- the process ---

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=STOP_SECONDS_MAX)

    def kill(self) -> None:
        """SIGKILL, which no process can answer."""
        self.process.kill()
        self.process.wait(timeout=STOP_SECONDS_MAX)

    def _read(self) -> None:
        stdout = self.process.stdout
        if stdout is not None:
            for text in stdout:
                self._incoming.put(json.loads(text))
        self._incoming.put(None)


@dataclass
class Mesh(Policyd):
    """A running `policyd up`: policyd with an Envoy before it."""

    listen: str = ""
    admin: str = ""
    policy: Path | None = None
    """Its policy file."""

    @property
    def url(self) -> str:
        return f"http://{self.listen}"

    def put_in_force(self, policy: str) -> None:
        """Writes another policy into the file, and has it read."""
        assert self.policy is not None
        if self.policy.exists() and self.policy.read_text() == policy:
            return
        before = self.metric(POLICY_RELOADS, result="ok")
        self.policy.write_text(policy)
        self.process.send_signal(signal.SIGHUP)
        self.wait_for_metric(POLICY_RELOADS, before + 1, result="ok")


@contextmanager
def policyd_up(
    *,
    upstreams: Mapping[str, str],
    store: str = "memory://",
    policy: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    stderr: IO[bytes] | None = None,
) -> Iterator[Mesh]:
    """Runs `policyd up` on free ports until the block ends.

    `policy` is the path of a policy file. What policyd and Envoy write to standard error goes to the test's, or to
    `stderr`.
    """
    flags = ["--listen", ANY_PORT, "--admin", ANY_PORT, "--grpc", ANY_PORT, "--http", ANY_PORT]
    flags += ["--ext-proc", ANY_PORT]
    for name, url in upstreams.items():
        flags += ["--upstream", f"{name}={url}"]
    if policy is not None:
        flags += ["--config", str(policy)]
    # Not as a flag: everybody could read a password in it.
    environ = {"POLICYD_STORE": store, **(environ or {})}
    with _running(Mesh, "up", flags, environ=environ, stderr=stderr) as (mesh, addresses):
        mesh.listen, mesh.admin = addresses["listen"], addresses["admin"]
        mesh.policy = Path(policy) if policy is not None else None
        yield mesh


@contextmanager
def policyd_serve(
    *,
    store: str,
    policy: Path,
    grpc: str = ANY_PORT,
    ext_proc: str = ANY_PORT,
    environ: Mapping[str, str] | None = None,
    stderr: IO[bytes] | None = None,
    launcher: Sequence[str] = (),
) -> Iterator[Policyd]:
    """Runs `policyd serve`, without an Envoy, until the block ends. `grpc` and `ext_proc` are where it listens.

    `launcher`: a program that becomes policyd, and its arguments.
    """
    flags = ["--grpc", grpc, "--ext-proc", ext_proc, "--http", ANY_PORT, "--config", str(policy)]
    environ = {"POLICYD_STORE": store, **(environ or {})}
    with _running(Policyd, "serve", flags, environ=environ, stderr=stderr, launcher=launcher) as (policyd, _):
        yield policyd


_Running = TypeVar("_Running", bound=Policyd)


@contextmanager
def _running(
    kind: type[_Running],
    command: str,
    flags: list[str],
    *,
    environ: Mapping[str, str] | None,
    stderr: IO[bytes] | None,
    launcher: Sequence[str] = (),
) -> Iterator[tuple[_Running, Mapping[str, str]]]:
    # Made by policyd only if it needs it.
    journal = Path(tempfile.gettempdir()) / f"policyd-journal-{uuid.uuid4().hex}"
    process = subprocess.Popen(
        [*launcher, sys.executable, "-m", "policyd", command, *flags],
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, "POLICYD_JOURNAL": str(journal), **(environ or {})},
    )
    policyd = kind(process)
    reader = threading.Thread(target=policyd._read, daemon=True)
    reader.start()
    try:
        addresses = _ready(policyd)
        policyd.grpc, policyd.http = addresses["grpc"], addresses["http"]
        yield policyd, addresses
        if process.poll() is None:
            assert policyd.stop() == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join()
        if process.stdout is not None:
            process.stdout.close()
        shutil.rmtree(journal, ignore_errors=True)


def _ready(policyd: Policyd) -> Line:
    try:
        line = policyd._incoming.get(timeout=READY_SECONDS_MAX)
    except queue.Empty:
        line = None
    if line is None or line.get("event") != "ready":
        raise AssertionError(f"policyd did not become ready, standard error tells why; it said: {line}")
    return line


def _units(amount: Amount) -> int:
    if amount.HasField("money"):
        return int(amount.money.units) * NANOS_PER_USD + int(amount.money.nanos)
    return int(amount.units)
