"""The vendor's control plane, asked over HTTP: which deployments an account has.

Bounded in every direction: attempts, waits, pages. Waits are the caller's to make (`sleep`), so that tests need none.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import cast

import httpx2
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from smartroute.fireworks import GLOBAL_KEY_VARIABLE, PAGE_SIZE, READ_MASKS, Deployment, deployments_path, read_page
from smartroute.policy.outcome import retry_after

__all__ = ["ATTEMPTS", "LONGEST_WAIT", "MOST_PAGES", "MOST_READ", "ControlPlaneError", "list_deployments"]

ATTEMPTS = 5
"""Of each page."""
LONGEST_WAIT = 30.0
"""Seconds that a person waits for the control plane; who is asked to wait longer is told so instead."""
MOST_PAGES = 50
MOST_READ = 16 * 1024 * 1024
"""Bytes of a page."""
LONGEST_PAGE = 60.0
"""Seconds that the body of a page may take, also if it drips."""
TIMEOUT = httpx2.Timeout(30.0, connect=10.0)
PASTE = "or paste what firectl prints: firectl deployment get ID | smartroute discover -"


class ControlPlaneError(Exception):
    """The control plane has not said which deployments there are.

    Attributes:
        problem: what happened, without a key.
        remedy: what to do.
        usage: whether the key, the account or the address is wrong, rather than the weather.
    """

    def __init__(self, problem: str, remedy: str, *, usage: bool = False) -> None:
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        self.remedy = remedy
        self.usage = usage


class _PassingError(ControlPlaneError):
    """What may be better in a moment. `wait`: the seconds that the answer asks for."""

    wait: float | None = None


class _MaskError(Exception):
    """The read mask was not understood."""


def list_deployments(
    url: str,
    account: str,
    key: str,
    *,
    say: Callable[[str], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Deployment, ...]:
    """All deployments of an account, without their keys.

    Args:
        url: the control plane's URL, without a path.
        account: the account's id.
        key: a console key of the account.
        say: told of every wait.
        sleep: waits so many seconds.

    Raises:
        ControlPlaneError: with what happened and what to do.
    """
    with _client(url, key) as client:
        asking = _Asking(client, url=url, account=account, key=key, say=say, sleep=sleep)
        for mask in READ_MASKS:
            try:
                return asking.every_page(mask)
            except _MaskError:
                continue
    raise ControlPlaneError(
        f"{url} understands none of the read masks that keep keys out of its answers",
        f"tell the project about it, {PASTE}",
    )


def _client(url: str, key: str) -> httpx2.Client:
    try:
        return httpx2.Client(base_url=url, timeout=TIMEOUT, headers={"Authorization": f"Bearer {key}"})
    except OSError:
        problem = "the certificates of the authorities cannot be read"
        remedy = "name readable PEM files in SSL_CERT_FILE and SSL_CERT_DIR, or unset them"
    except (ValueError, ImportError, httpx2.InvalidURL):
        problem = "the environment's proxy cannot be used"
        remedy = (
            "write HTTPS_PROXY and ALL_PROXY as in http://proxy.example:3128 (for socks5:// httpx2[socks] is needed)"
        )
    raise ControlPlaneError(problem, remedy, usage=True)


class _Asking:
    """One account's deployments, page by page."""

    def __init__(
        self,
        client: httpx2.Client,
        *,
        url: str,
        account: str,
        key: str,
        say: Callable[[str], None],
        sleep: Callable[[float], None],
    ) -> None:
        self._client = client
        self._url = url
        self._account = account
        self._key = key
        self._say = say
        self._retrying = Retrying(
            retry=retry_if_exception_type(_PassingError),
            stop=stop_after_attempt(ATTEMPTS),
            wait=_wait,
            before_sleep=self._tell,
            sleep=sleep,
            reraise=True,
        )

    def every_page(self, mask: str) -> tuple[Deployment, ...]:
        parameters = {"pageSize": str(PAGE_SIZE), "readMask": mask}
        found: list[Deployment] = []
        tokens: set[str] = set()
        for _ in range(MOST_PAGES):
            deployments, token = self._retrying(self._page, parameters)
            if deployments and not any(each.base for each in deployments):
                raise _MaskError
            found += deployments
            if token is None:
                return tuple(found)
            if token in tokens:
                break
            tokens.add(token)
            parameters["pageToken"] = token
        raise ControlPlaneError(
            f"the list of deployments has no end (stopped after {len(tokens)} pages)", f"try again later, {PASTE}"
        )

    def _page(self, parameters: Mapping[str, str]) -> tuple[tuple[Deployment, ...], str | None]:
        try:
            with self._client.stream("GET", deployments_path(self._account), params=parameters) as answer:
                body = _read(answer)
        except httpx2.TransportError as error:
            raise self._unreachable(error) from None
        if answer.status_code != 200:
            raise self._refused(answer, body, masked=len(parameters) == 2)
        try:
            return read_page(json.loads(body))
        except (ValueError, RecursionError):
            raise ControlPlaneError(
                f"{self._url} did not answer with a list of deployments",
                f"is it the control plane, and no proxy's page? {PASTE}",
            ) from None

    def _unreachable(self, error: httpx2.TransportError) -> ControlPlaneError:
        what = "" if isinstance(error, httpx2.RemoteProtocolError) else str(error)  # which quotes what came
        what = what or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in what:
            return ControlPlaneError(
                f"the certificate of {self._url} is not trusted",
                "if a proxy of your company opens TLS, name its certificates in SSL_CERT_FILE",
            )
        return _PassingError(
            f"{self._url} cannot be reached ({what})",
            f"see to the network, or to the proxy in HTTPS_PROXY, {PASTE}",
        )

    def _refused(self, answer: httpx2.Response, body: bytes, *, masked: bool) -> Exception:
        status = answer.status_code
        words = self._words_of(body)
        match status:
            case 400 if masked:
                return _MaskError()
            case 401:
                return ControlPlaneError(
                    f"the key in {GLOBAL_KEY_VARIABLE} is not accepted (401)",
                    "use a key of the console (app.fireworks.ai, or firectl api-key create): "
                    "a direct route's key does not open the control plane",
                    usage=True,
                )
            case 403:
                return ControlPlaneError(
                    f"the key in {GLOBAL_KEY_VARIABLE} may not list the deployments of {self._account} (403)",
                    "is it the account's (firectl whoami), and may its user see deployments?",
                    usage=True,
                )
            case 404:
                return ControlPlaneError(
                    f"there is no account {self._account} for this key at {self._url} (404)",
                    "give its id as firectl whoami shows it, with --account, and check --api-url if you gave one",
                    usage=True,
                )
            case 429:
                return self._wait_asked_for(answer, "the control plane has had too many requests (429)")
            case _ if status >= 500:
                return self._wait_asked_for(answer, f"the control plane has a bad moment ({status}{words})")
            case _ if status < 400:
                return ControlPlaneError(
                    f"{self._url} answers with a redirect ({status}), which the key does not follow",
                    "give the address where it leads with --api-url",
                    usage=True,
                )
            case _:
                return ControlPlaneError(f"the control plane refuses ({status}{words})", f"see to it, {PASTE}")

    def _wait_asked_for(self, answer: httpx2.Response, problem: str) -> ControlPlaneError:
        wait = retry_after(answer.headers.raw, time.time())
        if wait is not None and wait > LONGEST_WAIT:
            return ControlPlaneError(f"{problem}, and asks to wait {wait:.0f} s or more", f"try again then, {PASTE}")
        error = _PassingError(problem, f"try again in a minute, {PASTE}")
        error.wait = wait
        return error

    def _words_of(self, body: bytes) -> str:
        """What an error says of itself, in a line that cannot hold the key."""
        try:
            document: object = json.loads(body)
        except (ValueError, RecursionError):
            return ""
        fields = cast("Mapping[str, object]", document) if isinstance(document, Mapping) else {}
        message = fields.get("message")
        if not isinstance(message, str) or self._key in message:
            return ""
        return ": " + "".join(c if c.isprintable() else " " for c in message[:200])

    def _tell(self, state: RetryCallState) -> None:
        self._say(f"{_error(state).problem}; trying again in {state.upcoming_sleep:.1f} s ...")


def _read(answer: httpx2.Response) -> bytes:
    """The body; of one that cannot be read, or has no end, nothing."""
    body, until = b"", time.monotonic() + LONGEST_PAGE
    try:
        for chunk in answer.iter_bytes():
            body += chunk
            if len(body) > MOST_READ or time.monotonic() > until:
                return b""
    except httpx2.DecodingError:
        return b""
    return body


def _wait(state: RetryCallState) -> float:
    """The seconds that the answer asks for, or a growing, random number of them."""
    wait = _error(state).wait
    return wait_random_exponential(multiplier=0.5, max=8)(state) if wait is None else wait


def _error(state: RetryCallState) -> _PassingError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, _PassingError)  # noqa: S101 - nothing else is retried
    return error
