"""Asking endpoints for one token, through the library's own client."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import smartroute
from smartroute.cli.measure import MOST_READ, code_of, read_json, served
from smartroute.config import Config
from smartroute.events import AttemptEnded, Event
from smartroute.policy.outcome import Failure
from smartroute.route import Kind, Route
from smartroute.router import Router

__all__ = ["LIVE_LIMIT", "Asker", "Completion", "live_path"]

LIVE_LIMIT = 60.0
"""Seconds that a completion may take: a long queue is no failure."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What came of a one-token completion.

    Attributes:
        model: the name under which the endpoint was asked for it.
        seconds: the whole call; `first_token`: from the request's first byte to the first content.
        status: the status code; None: no answer came.
        code: what the body of an error calls it.
        failure: what failed, if no good answer came; `detail`: in words.
    """

    route: Route
    model: str
    seconds: float
    first_token: float | None = None
    status: int | None = None
    code: str = ""
    failure: str | None = None
    detail: str = ""

    @property
    def good(self) -> bool:
        """Whether a token came."""
        return self.status == 200 and self.failure is None


def live_path(route: Route, config: Config) -> str | None:
    """A path that the route serves and that a completion may be asked for at; None: there is none."""
    return next((path for path in ("/chat/completions", "/completions") if path in served(route, config)), None)


class Asker:
    """Asks endpoints for one token, through the library's own client: nothing else goes elsewhere or is sent twice.

    Args:
        router: learns from what comes.
        limit: seconds that an answer may take.
    """

    def __init__(self, config: Config, router: Router, *, limit: float = LIVE_LIMIT) -> None:
        self._config = config
        self._limit = limit
        self._ended: dict[str, list[AttemptEnded]] = defaultdict(list)
        self._stop = router.subscribe(self._note)
        self._client = smartroute.Client(router=router, follow_redirects=False)

    def close(self) -> None:
        """Close its connections."""
        self._stop()
        self._client.close()

    def ask(self, route: Route, model: str, path: str) -> Completion:
        """Ask one endpoint.

        Args:
            model: the model to ask for, which the endpoint may know under another name.
            path: `/chat/completions` or `/completions`.
        """
        on_global = route.kind is Kind.GLOBAL
        base = self._config.global_url or route.url
        key = self._config.global_api_key if self._config.global_url else next(iter(route.keys), None)
        said: dict[str, object] = {"prompt": "Hi"}
        if path == "/chat/completions":
            said = {"messages": [{"role": "user", "content": "Hi"}]}
        headers = {"x-smartroute-route": route.name}
        if key:  # a request to a route's own URL carries the route's key, as the route wants it
            name = "authorization" if self._config.global_url else route.key_header
            headers[name] = f"Bearer {key}" if name == "authorization" else key
        sent = model if on_global else route.model_for(model) or model
        self._ended.pop(route.name, None)
        started = time.monotonic()
        status, body, detail = None, b"", f"it is not over after {self._limit:g} s"
        with contextlib.suppress(Empty):
            status, body, detail = self._answer(
                base + path, {"model": model, **said, "max_tokens": 1, "stream": True}, headers
            ).get(timeout=self._limit)
        seconds = time.monotonic() - started
        last = self._ended[route.name][-1] if self._ended[route.name] else None
        failure = last.failure if last else None
        if status == 200 and failure is None and b"data:" not in body:
            failure, detail = Failure.CONTENT_TYPE, "the answer is no event stream"
        first = None if last is None or last.first_content is None else last.first_content - (last.departed or 0.0)
        return Completion(
            route,
            sent,
            seconds,
            first if status == 200 else None,
            status,
            "" if status == 200 else code_of(read_json(body)[0], [*route.secrets, *filter(None, (key,))]),
            failure or (None if status else "error"),
            (last.detail if last else "") or detail,
        )

    def _answer(
        self, url: str, content: dict[str, object], headers: dict[str, str]
    ) -> SimpleQueue[tuple[int | None, bytes, str]]:
        """Where status, body and error of the answer will come. No timeout ends what drips: `close` does."""
        answers: SimpleQueue[tuple[int | None, bytes, str]] = SimpleQueue()

        def send() -> None:
            status, body, detail = None, b"", ""
            try:
                with self._client.stream("POST", url, json=content, headers=headers, timeout=self._limit) as response:
                    status = response.status_code
                    for chunk in response.iter_raw():
                        body += chunk
                        if len(body) > MOST_READ:
                            break
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what was found out
                detail = type(error).__name__
            answers.put((status, body, detail))

        threading.Thread(target=send, name="smartroute-ask", daemon=True).start()
        return answers

    def _note(self, event: Event) -> None:
        if isinstance(event, AttemptEnded):
            self._ended[event.endpoint.name].append(event)
