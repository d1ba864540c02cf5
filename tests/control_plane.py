"""The vendor's control plane, as its page "List Deployments" and its SDK's types describe it, on this machine."""

import json
import re
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

__all__ = ["CONSOLE_KEY", "DIRECT_KEY", "ControlPlane", "control_plane", "deployment"]

CONSOLE_KEY = "fw_FakeConsoleKey00000000"
DIRECT_KEY = "FakeDirectRouteKey1111"
"""What every deployment's `directRouteApiKeys` holds: it must never be seen."""


def deployment(
    name: str,
    region: str = "US_ARIZONA_1",
    *,
    account: str = "my-account",
    model: str = "accounts/fireworks/models/llama-v3p1-8b-instruct",
    **fields: object,
) -> dict[str, object]:
    """A deployment with an internet direct route, as the control plane has it; `fields` replace or, if None, remove."""
    label = region.lower().replace("_", "-")
    document: dict[str, object] = {
        "name": f"accounts/{account}/deployments/{name}",
        "displayName": "",
        "createTime": "2026-11-07T05:31:56.114Z",
        "baseModel": model,
        "state": "READY",
        "status": {"code": "OK", "message": ""},
        "minReplicaCount": 1,
        "maxReplicaCount": 4,
        "replicaCount": 2,
        "replicaStats": {"readyReplicaCount": 2, "initializingReplicaCount": 0},
        "acceleratorType": "NVIDIA_H100_80GB",
        "directRouteApiKeys": [DIRECT_KEY],
        "directRouteType": "INTERNET",
        "directRouteHandle": f"{account}-{name}.{label}.direct.fireworks.ai",
        "placement": {"region": region},
        "region": region,
    }
    document.update(fields)
    return {key: value for key, value in document.items() if value is not None}


class ControlPlane(ThreadingHTTPServer):
    """The server.

    Attributes:
        deployments: what the account has.
        page: the most deployments on a page.
        snake_case: whether it knows only this spelling in read masks, and refuses others (`strict`) or
            answers without the fields.
        answers: what the next requests get instead: status, headers, body.
        asked: the path and the query of each request so far.
    """

    daemon_threads = True

    def __init__(self, deployments: Sequence[Mapping[str, object]], account: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.deployments = list(deployments)
        self.account = account
        self.page = 200
        self.snake_case = False
        self.strict = False
        self.answers: list[tuple[int, Mapping[str, str], bytes]] = []
        self.asked: list[tuple[str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, query: Mapping[str, str], key: str | None) -> tuple[int, Mapping[str, str], bytes]:
        """What a request gets."""
        if self.answers:
            return self.answers.pop(0)
        if key != f"Bearer {CONSOLE_KEY}":
            return self.error(401, f"invalid key: {key}")
        if path != f"/v1/accounts/{self.account}/deployments":
            return self.error(404, "not found")
        fields = query.get("readMask", "*").split(",")
        if self.snake_case and self.strict and any(re.search("[A-Z]", field) for field in fields):
            return self.error(400, "invalid field mask")
        start, size = int(query.get("pageToken", "0")), min(int(query.get("pageSize", "50")), self.page)
        found = [self._masked(each, fields) for each in self.deployments[start : start + size]]
        end = start + size
        document: dict[str, object] = {"totalSize": len(self.deployments)}
        if found:  # what is empty is left out
            document["deployments"] = found
        document["nextPageToken"] = str(end) if end < len(self.deployments) else ""
        return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()

    def error(self, status: int, message: str) -> tuple[int, Mapping[str, str], bytes]:
        """An error in the control plane's form."""
        return status, {"Content-Type": "application/json"}, json.dumps({"code": 5, "message": message}).encode()

    def _masked(self, document: Mapping[str, object], fields: Sequence[str]) -> dict[str, object]:
        def spelled(name: str) -> str:
            return re.sub("([A-Z])", r"_\1", name).lower() if self.snake_case else name

        return {name: value for name, value in document.items() if fields == ["*"] or spelled(name) in fields}


class _Handler(BaseHTTPRequestHandler):
    server: ControlPlane

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        self.server.asked.append((url.path, query))
        status, headers, body = self.server.answer(url.path, query, self.headers.get("Authorization"))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def control_plane(*deployments: Mapping[str, object], account: str = "my-account") -> Generator[ControlPlane]:
    """A control plane with these deployments, while the block runs."""
    server = ControlPlane(deployments, account)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
