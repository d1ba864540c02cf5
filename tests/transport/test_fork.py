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
