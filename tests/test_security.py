"""What docs/security.md says of the process as a whole; all else there is held by the tests that it names."""

import json
import os
import subprocess
import sys

from tests.documents import stand_in

SCRIPT = """
import asyncio, json, os, sys, time

events = []
processes = ("os.exec", "os.fork", "os.posix_spawn", "os.system", "subprocess.Popen")
watched = ("socket.connect", "socket.getaddrinfo", *processes)

def note(event, arguments):
    if event in watched:
        events.append((event, [str(each) for each in arguments[1:]] if event == "socket.connect" else str(arguments)))
    elif event == "open" and arguments[1] and set(arguments[1]) & set("wax+"):
        events.append((event, str(arguments[0])))

sys.addaudithook(note)
import smartroute

URL = os.environ["SMARTROUTE_GLOBAL_URL"] + "/chat/completions"
AUTH = {"authorization": "Bearer fake-console-key"}
CALLS = [({"model": "m", "messages": [], "stream": stream}, pin) for stream in (False, True)
         for pin in ("us-arizona-1", "eu-frankfurt-1", "global", None)]

def asked(body, pin):
    return {"json": body, "headers": AUTH | ({"x-smartroute-route": pin} if pin else {})}

async def main(config):
    async with smartroute.AsyncClient(config) as client:
        for body, pin in CALLS:
            assert (await client.post(URL, **asked(body, pin))).status_code == 200

config = smartroute.Config.from_env()
with smartroute.Client(config) as client:
    for body, pin in CALLS:
        assert client.post(URL, **asked(body, pin)).status_code == 200
    while not all(each.round_trip for each in client.router.status()):  # they are probed
        time.sleep(0.01)
asyncio.run(main(config))
print(json.dumps(events))
"""


def test_it_talks_to_nobody_but_those_it_was_told_of() -> None:
    with stand_in() as world:
        environ = {**os.environ, **world.environ, "SMARTROUTE_PROBE_INTERVAL": "0.1", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environ, capture_output=True, text=True, check=False, timeout=50
        )
        hosts = {region.url.split("/")[2] for region in (world.near, world.far, world.world)}
    assert (done.returncode, done.stderr) == (0, "")
    events = json.loads(done.stdout)
    connected = {what[0] for event, what in events if event == "socket.connect"}
    assert connected == {f"('127.0.0.1', {host.partition(':')[2]})" for host in hosts}
    resolved = {what for event, what in events if event == "socket.getaddrinfo"}
    assert all("127.0.0.1" in what for what in resolved)
    assert [event for event in events if event[0] not in ("socket.connect", "socket.getaddrinfo")] == []
