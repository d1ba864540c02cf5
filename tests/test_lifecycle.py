"""Which clients share a router, and how long it lives."""

import gc
import logging
import pickle
import subprocess
import sys
from typing import Any

import pytest

import smartroute
import smartroute.telemetry
from smartroute.config import Config
from smartroute.lifecycle import acquire, release
from smartroute.route import Route
from smartroute.router import Router


class User:
    """Stands for a transport."""


def is_closed(router: Router) -> bool:
    return router.closed


def config(name: str) -> Config:
    return Config([Route(f"https://{name}.example/v1", name=name, api_key="fake-key")])


def test_equal_configurations_share_a_router_until_the_last_user_goes() -> None:
    one, two, three = User(), User(), User()
    router = acquire(one, config("a"), None)
    assert acquire(two, config("a"), None) is router
    assert acquire(three, config("b"), None) is not router
    release(one)
    release(one)  # once too often takes nothing from the others
    assert not is_closed(router)
    release(two)
    assert is_closed(router)
    release(three)


def test_after_the_last_user_a_new_router_is_made() -> None:
    first, second = User(), User()
    router = acquire(first, config("a"), None)
    release(first)
    again = acquire(second, config("a"), None)
    assert again is not router
    release(second)


def test_a_forgotten_user_counts_as_gone() -> None:
    user = User()
    router = acquire(user, config("a"), None)
    del user
    gc.collect()
    release(User())  # anybody who comes or goes next sees to it
    assert is_closed(router)


@pytest.mark.parametrize("moment", range(1, 5))
def test_a_garbage_collection_takes_no_router_from_whoever_acquires_it(
    moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come at any allocation, and find the last user but the one that is just coming."""
    forgotten, coming = User(), User()
    given = config("a")
    first = acquire(forgotten, given, None)
    forgotten.__dict__["itself"] = forgotten  # a cycle: nothing but the collector finds it
    original, count = Config.__hash__, 0

    def collecting(config: Config) -> int:
        nonlocal count
        count += 1
        if count == moment:
            gc.collect()
        return original(config)

    gc.disable()
    try:
        del forgotten
        monkeypatch.setattr(Config, "__hash__", collecting)
        router = acquire(coming, given, None)
    finally:
        monkeypatch.undo()
        gc.enable()
    assert not is_closed(router)
    gc.collect()
    other = User()
    assert acquire(other, given, None) is router
    assert not is_closed(router)
    release(other)
    assert not is_closed(router)
    release(coming)
    assert is_closed(router)
    assert is_closed(first)


def test_a_shared_router_that_was_closed_by_hand_is_replaced() -> None:
    first, second = User(), User()
    router = acquire(first, config("a"), None)
    router.close()
    again = acquire(second, config("a"), None)
    assert again is not router
    release(first)
    assert not is_closed(again)
    release(second)


def test_a_router_of_ones_own_stays_open() -> None:
    user, router = User(), Router(config("a"))
    assert acquire(user, None, router) is router
    release(user)
    assert not is_closed(router)
    router.close()


def test_a_config_and_a_router_are_one_too_many() -> None:
    with pytest.raises(TypeError, match="either a config or a router"):
        acquire(User(), config("a"), Router(config("a")))


def test_a_broken_telemetry_costs_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(**_: object) -> None:
        raise ImportError("half an OpenTelemetry")

    monkeypatch.setattr(smartroute.telemetry, "Telemetry", broken)
    given = config("without-telemetry")
    with smartroute.Client(given) as client, smartroute.Client(given) as other:
        assert client.router is other.router
        assert not is_closed(client.router)
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "smartroute")
    assert "OpenTelemetry cannot be used" in record.getMessage()


@pytest.mark.parametrize("end", ["closed", "forgotten"])
def test_a_router_is_in_the_gauges_as_long_as_it_lives(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    router: Router | None = Router(config("a"))
    assert router is not None
    asked: dict[str, Any] = {}
    monkeypatch.setattr(smartroute.telemetry, "Telemetry", lambda **given: asked.update(given))
    acquire(User(), None, router)
    assert [status.name for status in asked["status"]()] == ["a"]
    assert asked["budgets"]().keys() == {"replay"}
    if end == "closed":
        router.close()
    else:
        router = None
        gc.collect()
    assert (asked["status"](), asked["budgets"]()) == ((), {})


def test_what_belongs_to_a_process_says_so_when_it_is_pickled() -> None:
    config = Config([Route("http://127.0.0.1:9/v1", name="near", api_key="fake-key")], global_url=None)
    with smartroute.httpx2.Client(config) as client:
        for thing in (client.router, client):
            with pytest.raises(TypeError, match="pickle the Config and make new ones"):
                pickle.dumps(thing)


def test_the_environment_sets_the_level_of_the_log_whatever_the_configuration_came_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logger = logging.getLogger("smartroute")
    before = logger.level
    try:
        for value, level in (("nonsense", before), ("debug", logging.DEBUG)):
            monkeypatch.setenv("SMARTROUTE_LOG", value)
            with smartroute.Client(config("a")):
                assert logger.level == level
    finally:
        logger.setLevel(before)


CLOSED_BY_COLLECTOR = """
import gc
import smartroute.httpx2, smartroute.lifecycle
from smartroute import Config, Route, Router

class Service:
    def __init__(self):
        self.client = smartroute.httpx2.Client(config("a"))
        self.itself = self

    def __del__(self):
        self.client.close()
        print("closed")

def config(name):
    return Config([Route("http://127.0.0.1:1/v1", name=name, api_key="fake")], global_url=None)

def make(config):
    gc.collect()
    return Router(config)

gc.disable()
Service()
smartroute.lifecycle.Router = make
client = smartroute.httpx2.Client(config("b"))
client.close()
print(smartroute.lifecycle._shared)
"""


def test_a_client_may_be_closed_by_the_garbage_collector_while_another_is_made() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLOSED_BY_COLLECTOR], capture_output=True, text=True, check=False, timeout=20
    )
    assert (done.stdout, done.stderr, done.returncode) == ("closed\n{}\n", "", 0)


INTERRUPTED = """
import gc, signal
import smartroute.httpx2

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
many = [[] for _ in range(500_000)]
try:
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    for _ in range(20):
        gc.collect()
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_signal_that_comes_during_a_garbage_collection_is_not_lost() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False, timeout=20)
    assert (done.stdout, done.stderr, done.returncode) == ("interrupted\n", "", 0)


FORKED = """
import importlib.abc, importlib.machinery, os, signal, sys, threading
import smartroute.httpx2
from smartroute import Config, Route
from smartroute.testing import Region

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "smartroute.telemetry.spans" or os.getpid() != parent:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (loading.set(), forked.wait(20), run(module))
        return spec

def ask(client):
    return client.post(f"{client.router.config.routes[0].url}/chat/completions", json={"model": "m"}).status_code

parent, loading, forked = os.getpid(), threading.Event(), threading.Event()
sys.meta_path.insert(0, Slow())
with Region("near") as near:
    config = Config([Route(near.url, name="near")], api_key="fake", global_url=None, probe_interval=0)
    client = smartroute.httpx2.Client(config)
    import opentelemetry
    thread = threading.Thread(target=ask, args=(client,))
    thread.start()
    loading.wait(20)
    child = os.fork()
    if not child:
        signal.alarm(10)
        other = smartroute.httpx2.Client(Config([Route(near.url, name="other")], api_key="fake", global_url=None))
        os._exit(0 if ask(client) == ask(other) == 200 else 1)
    forked.set()
    print(os.waitpid(child, 0)[1])
    thread.join()
    print(ask(client))
    client.close()
"""


def test_a_fork_while_telemetry_is_loaded_leaves_a_child_that_can_send() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=False, timeout=40)
    assert done.stdout == "0\n200\n"
    assert done.stderr.count("was forked while OpenTelemetry was loaded") <= 1
