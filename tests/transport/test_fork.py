"""A client made before a fork serves parent and child, each over connections of its own (gunicorn's prefork)."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
import smartroute
from smartroute.testing import Region

def serve(region, client, times):
    for _ in range(times):
        response = client.post(region.url + "/chat/completions", json={"model": "m", "messages": []})
        assert response.json()["choices"], response.text

region = Region("near")
region.start()
parent = os.getpid()
route = smartroute.Route(region.url, name="near")
config = smartroute.Config([route], api_key="fake-key", global_url="off", probe_interval=PROBES)
client = smartroute.Client(config)
serve(region, client, 2)
read, write = os.pipe()
child = os.fork()
if child == 0:
    try:
        serve(region, client, 3)
        assert [status.in_flight for status in client.router.status()] == [0]
        client.close()
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
_, status = os.waitpid(child, 0)
assert status == 0, status
serve(region, client, 2)
posts = [seen.connection for seen in region.requests if seen.method == "POST"]
assert len(posts) == 7, posts
mine, theirs = {*posts[:2], *posts[5:]}, {*posts[2:5]}
assert not mine & theirs, posts
client.close()
region.stop()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("probes", [0, 0.1])
@pytest.mark.timeout(120)
def test_a_fork_shares_no_connection(probes: float) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("PROBES", str(probes))],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr


STREAMING = """
import os
import smartroute.httpx2
from smartroute import Config, Route
from smartroute.testing import Region

with Region("near", tokens=20, token_interval=0.02) as region:
    config = Config([Route(region.url, name="near", api_key="fake")], global_url=None, probe_interval=0)
    with smartroute.httpx2.Client(config) as client:
        url = f"{region.url}/chat/completions"
        body = {"model": "m", "messages": [], "stream": True}
        request = client.build_request("POST", url, json=body, headers={"authorization": "Bearer fake"})
        response = client.send(request, stream=True)
        chunks = response.iter_raw()
        next(chunks)
        child = os.fork()
        if child == 0:
            response.close()
            assert [status.in_flight for status in client.router.status()] == [0]
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert b"[DONE]" in b"".join(chunks)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_that_closes_a_stream_leaves_it_to_its_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", STREAMING],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


HOLDING = """
import contextlib, os, signal, threading
import smartroute.httpx2
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from smartroute import Config, Route
from smartroute.log import Log
from smartroute.telemetry import instruments
from smartroute.testing import Region, Reset

reader = InMemoryMetricReader()
provider = MeterProvider([reader])
metrics.set_meter_provider(provider)
trace.set_tracer_provider(TracerProvider())

def in_flight():
    found = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    return sum(point.value for m in found if m.name == "smartroute.attempts.in_flight" for point in m.data.data_points)

with Region("near") as near, Region("far") as far:
    routes = [Route(region.url, name=region.name, api_key="fake") for region in (near, far)]
    config = Config(routes, global_url=None, probe_interval=0)
    with smartroute.httpx2.Client(config) as client:
        url = f"{near.url}/chat/completions"
        body = {"model": "m", "messages": []}
        streaming = client.build_request("POST", url, json={**body, "stream": True})
        response = client.send(streaming, stream=True)
        assert in_flight() == 1
        (log,) = [each for each in client.router._listeners._all if isinstance(each, Log)]
        (telemetry,) = [each._telemetry for each in client.router._listeners._all if hasattr(each, "_telemetry")]
        locks = [pool._shelf._lock for pool, _ in client.transport._driver._pools._routes.values()]
        locks += [log._lock, instruments._making]
        locks += [totals._lock for totals in instruments.Instruments.of(provider)._totals]
        held, forked = threading.Event(), threading.Event()

        def hold():
            with contextlib.ExitStack() as stack:
                for lock in locks:
                    stack.enter_context(lock)
                held.set()
                forked.wait(100)

        thread = threading.Thread(target=hold, daemon=True)
        thread.start()
        held.wait(20)
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            response.close()
            assert in_flight() == 0
            assert not telemetry._spans._exchanges
            near.set(Reset())
            client.router._listeners.breaker_changed(routes[0], "closed", "open", "reset", None)
            assert client.post(url, json=body).status_code == 200
            with smartroute.httpx2.Client(Config(routes[1:], global_url=None)) as another:
                assert another.post(f"{far.url}/chat/completions", json=body).status_code == 200
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        forked.set()
        thread.join()
        response.close()
        assert in_flight() == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_waits_for_no_lock_of_a_thread_that_is_not_there() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", HOLDING],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
