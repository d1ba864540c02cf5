"""The world: regions and a global endpoint behind their round trips, and hosts for those who call them."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import trustme

from benchmarks.wan import globe
from benchmarks.wan.forwarder import CALLERS
from benchmarks.wan.network import Host, address
from benchmarks.wan.worker import LITELLM, Urls

__all__ = ["BEST", "GLOBAL_TRIP", "LITELLM_PYTHON", "PATIENCE", "SECOND", "SERVICE", "TRIPS", "Process", "World"]

TRIPS = {"near": 0.020, "middle": 0.070, "far": 0.150}
"""The regions, and the seconds of a round trip to each."""
BEST, SECOND = "near", "middle"
GLOBAL = "global"
GLOBAL_TRIP = 0.060
"""Seconds of a round trip to the global endpoint. From there to the regions it is none: as if it were beside each."""
SERVICE = 0.100
"""Seconds from a request to its first token, within a region."""
REPOSITORY = Path(__file__).parents[2]
LITELLM_PYTHON = REPOSITORY / ".venvs/litellm/bin/python"
FIRST = ("chrt", "--rr", "1")
"""How the forwarder is scheduled: a wire does not become slower because a computer at its end is busy."""
BEFORE_CALLERS = ("nice", "-n", "-15")
"""How the servers are: nor does a server, because its clients are."""
PATIENCE = 120.0
"""Seconds in which a process must have answered, or after its last call began."""


class World:
    """Everything that is in this machine instead of the world. All of it ends with the `with`, or with this process.

    Args:
        callers: how many hosts there are for contenders.
    """

    def __init__(self, callers: int) -> None:
        self._callers = callers
        self._stack = ExitStack()
        self._hosts: dict[int, Host] = {}
        self._regions: dict[str, Process] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wan-")))
            names = [*TRIPS, GLOBAL]
            numbers = [*range(1, len(names) + 1), *range(CALLERS, CALLERS + self._callers)]
            for number in numbers:
                self._hosts[number] = host = Host(number)
                stack.callback(host.close)
            self._authority = folder / "authority.pem"
            self._forwarder = stack.enter_context(self._wires())
            authority = trustme.CA()
            authority.cert_pem.write_to_path(f"{self._authority}")
            certificates = {}
            for number, name in enumerate(names, 1):
                certificates[name] = folder / f"{name}.pem"
                authority.issue_cert(address(number)).private_key_and_cert_chain_pem.write_to_path(
                    f"{certificates[name]}"
                )
            for name in TRIPS:
                self._regions[name] = stack.enter_context(self._server(name, certificates[name]))
            if self.has_envoy:
                stack.enter_context(self._envoy(folder, certificates[GLOBAL]))
            else:
                self._regions[GLOBAL] = stack.enter_context(self._server(GLOBAL, certificates[GLOBAL]))
            for region in self._regions.values():
                region.hear()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def has_envoy(self) -> bool:
        """Whether the global endpoint is an Envoy; otherwise it is a server that forwards nothing."""
        return (REPOSITORY / globe.ENVOY).exists()

    def urls(self, order: Sequence[str] = tuple(TRIPS), best: str = BEST, *, cold: bool = False) -> Urls:
        """What a contender is told."""
        numbers = {name: number for number, name in enumerate((*TRIPS, GLOBAL), 1)}
        bases = {name: f"https://{address(number)}/v1" for name, number in numbers.items()}
        return Urls({name: bases[name] for name in order}, bases[GLOBAL], best, cold)

    def contender(self, name: str, caller: int, urls: Urls) -> Process:
        """A contender on the caller's host; it says `ready` when it is."""
        python = f"{LITELLM_PYTHON}" if name == LITELLM else sys.executable
        command = [python, "-m", "benchmarks.wan.worker", name, json.dumps(asdict(urls))]
        return self._start(CALLERS + caller, command)

    def tell(self, region: str, command: str) -> Mapping[str, int]:
        """Have a region's server do something; what it has seen so far."""
        seen: Mapping[str, int] = self._regions[region].ask(command)
        return seen

    def host(self, region: str) -> Host:
        """The host that a region's server is on."""
        return self._hosts[[*TRIPS].index(region) + 1]

    def heal(self, region: str) -> None:
        """Let nothing be wrong any more."""
        self.host(region).heal()
        self.tell(region, "heal")

    def connections(self) -> dict[int, int]:
        """How many connections each caller has begun so far."""
        ways: dict[str, int] = self.traffic()["connections"]
        begun = dict.fromkeys(range(self._callers), 0)
        for way, count in ways.items():
            source = int(way.partition("-")[0])
            if source >= CALLERS:
                begun[source - CALLERS] += count
        return begun

    def probes(self) -> dict[int, int]:
        """How many requests without a body each caller has sent to regions."""
        counts = dict.fromkeys(range(self._callers), 0)
        for name in TRIPS:
            for who, count in self.tell(name, "seen").items():
                host, what = who.split()
                number = int(host.rpartition(".")[2]) - CALLERS
                if what == "probes" and number >= 0:
                    counts[number] += count
        return counts

    def traffic(self) -> dict[str, Any]:
        """What the forwarder has seen."""
        seen: dict[str, Any] = self._forwarder.ask("")
        return seen

    def _wires(self) -> Process:
        trips = {(CALLERS, number): trip for number, trip in enumerate((*TRIPS.values(), GLOBAL_TRIP), 1)}
        places = [*range(1, len(TRIPS) + 2), CALLERS]
        one_way = [[a, b, trips.get((max(a, b), min(a, b)), 0.0) / 2] for a in places for b in places]
        devices = {host.device: number for number, host in self._hosts.items()}
        what = json.dumps({"devices": devices, "one_way": one_way})
        command = [*FIRST, sys.executable, "-m", "benchmarks.wan.forwarder", what]
        return self._start(None, command, pass_fds=tuple(devices))

    def _server(self, name: str, certificate: Path) -> Process:
        number = [*TRIPS, GLOBAL].index(name) + 1
        command = [sys.executable, "-m", "benchmarks.wan.server", name, address(number), f"{certificate}", f"{SERVICE}"]
        return self._start(number, [*BEFORE_CALLERS, *command])

    def _envoy(self, folder: Path, certificate: Path) -> Process:
        number = len(TRIPS) + 1
        regions = [address(region) for region in range(1, number)]
        text = globe.configuration(address(number), regions, certificate, self._authority)
        (folder / "envoy.json").write_text(text)
        options = ["--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
        command = [f"{REPOSITORY / globe.ENVOY}", "-c", f"{folder / 'envoy.json'}", *options]
        return self._start(number, [*BEFORE_CALLERS, *command])

    def _start(self, host: int | None, command: Sequence[str], pass_fds: Sequence[int] = ()) -> Process:
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(OTHERS) and not k.endswith(("_proxy", "_PROXY"))
        }
        environment |= {"SSL_CERT_FILE": f"{self._authority}", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        if host is None:
            return Process(command, environment, pass_fds)
        with self._hosts[host].entered():
            return Process(command, environment, pass_fds)


OTHERS = ("SMARTROUTE_", "OPENAI_", "FIREWORKS_", "OTEL_", "LITELLM_", "SSL_CERT_")
"""What variables begin with that would change the contenders."""


class Process:
    """A process that is told lines and answers each with a line of JSON. It dies with us, whatever we die of."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], pass_fds: Sequence[int]) -> None:
        self._name = " ".join(command)
        tethered = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        self._process = subprocess.Popen(
            tethered,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=dict(environment),
            cwd=REPOSITORY,
            pass_fds=tuple(pass_fds),
            start_new_session=True,  # Ctrl-C is for us: we end the others
        )

    def tell(self, line: str) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def hear(self, patience: float = PATIENCE) -> Any:
        """What it has to say.

        Raises:
            RuntimeError: it died, or said nothing for so many seconds.
        """
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            said = self._process.stdout.readline() if selector.select(patience) else ""
        if not said:
            raise RuntimeError(f"{self._name} said nothing; its exit code: {self._process.poll()}")
        return json.loads(said)

    def ask(self, line: str) -> Any:
        """Send a line, and hear the answer."""
        self.tell(line)
        return self.hear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with self._process:  # closes its pipes, and waits
            pass
