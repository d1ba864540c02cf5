"""What is wrong with an endpoint, by what it looks like, and what to do about it.

Pure functions from what was measured to sentences. No sentence quotes an answer: it might repeat a key.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from smartroute.cli.live import Completion
from smartroute.cli.measure import ANOTHER_NAME, Answer, Look, served
from smartroute.cli.output import redacted
from smartroute.config import Config
from smartroute.fireworks import (
    GLOBAL_HOST,
    GLOBAL_KEY_VARIABLE,
    NOT_ON_DIRECT_ROUTES,
    WAITS,
    is_handle_host,
    looks_like_console_key,
    parse_handle,
    remedy_for_model,
)
from smartroute.policy.outcome import Failure
from smartroute.route import GLOBAL, Kind, Route, canonical_region
from smartroute.settings import PREFIX, key_variable

__all__ = ["EXPIRES_SOON", "Trouble", "of_answer", "of_completion", "of_configuration", "of_look"]

EXPIRES_SOON = 14
"""Days before its end at which a certificate should have been renewed."""
DAY = 86_400.0
LOGIN_PAGE = "see whether a login page is in the way (open the URL), and whether the base URL has its path (/v1)"
ELSEWHERE = "write the URL that it leads to"
NO_STREAM: Mapping[str, str] = {Failure.CONTENT_TYPE: LOGIN_PAGE, Failure.REDIRECT: ELSEWHERE}
"""Remedies for what is no stream, and no error either."""
MOST_NAMED = 5
"""Names that are told of those that an endpoint has: of models, or in its certificate."""

UNKNOWN_ISSUER = ("2", "18", "19", "20", "21")
NOT_YET_VALID = "9"
EXPIRED = "10"
"""OpenSSL's codes of what may be wrong with a certificate (X509_V_ERR_*)."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong with an endpoint.

    Attributes:
        endpoint: its name.
        step: where it showed: `configuration`, `dns`, `connect`, `tls`, `certificate`, `request` or `live`.
        problem: what is wrong, and `remedy`: what to do about it, each a part of a sentence.
        severe: whether the endpoint cannot serve because of it; a warning otherwise.
    """

    endpoint: str
    step: str
    problem: str
    remedy: str
    severe: bool = True

    def __str__(self) -> str:
        return f"{self.endpoint}: {self.problem}. Remedy: {self.remedy}."


def of_configuration(route: Route, config: Config) -> list[Trouble]:
    """What a route's settings say about each other."""
    host, found = urlsplit(route.url).hostname or "", list[Trouble]()
    if not is_handle_host(host):
        return found
    region = parse_handle(host).region
    if region is not None and route.region is not None and region != canonical_region(route.region):
        found.append(
            Trouble(
                route.name,
                "configuration",
                f"the handle is in region {region}, and the configuration says {route.region}",
                "correct the region, or leave it out: a handle says it itself",
                severe=bool(config.regions),  # then requests go where they must not
            )
        )
    if missing := [path for path in served(route, config) if path in NOT_ON_DIRECT_ROUTES]:
        problem = f"a direct route does not serve {' and '.join(missing)}"
        remedy = f"take it out of {PREFIX}PATHS, or of the route's own paths: the global endpoint serves it"
        found.append(Trouble(route.name, "configuration", problem, remedy, severe=False))
    return found


def of_look(look: Look, config: Config, environ: Mapping[str, str], wall: float) -> list[Trouble]:
    """What was found on the way to an endpoint.

    Args:
        environ: the variables, for the keys among them.
        wall: the time of day as a Unix timestamp.
    """
    route, found = look.route, list[Trouble]()
    if look.certificate is not None:
        days = (look.certificate.ends - wall) / DAY
        if days < EXPIRES_SOON:
            problem = f"its certificate expires in {days:.1f} days"
            remedy = "have it renewed; it will be refused from then on"
            found.append(Trouble(route.name, "certificate", problem, remedy, severe=False))
    if look.failure is not None:
        problem, remedy = _of_failure(look, look.failure)
        if route.kind is Kind.GLOBAL and look.step in ("dns", "connect") and look.proxy is None:
            remedy += f"; or set {PREFIX}GLOBAL_URL=off, if there is to be no fallback"
        found.append(Trouble(route.name, look.step, problem, remedy))
    refused = [answer for answer in look.answers if answer.refuses_key]
    for answer in refused:
        if (trouble := _of_key(look, answer, config, environ, alone=len(refused) == len(look.answers))) is not None:
            found.append(trouble)
    return found + of_answer(look)


def of_completion(completion: Completion, look: Look, config: Config, environ: Mapping[str, str]) -> list[Trouble]:
    """What was found by asking for a token."""
    route, status, model = completion.route, completion.status, completion.model
    direct = route.kind is not Kind.GLOBAL
    if completion.good:
        if not direct and config.routes and remedy_for_model(model, direct=False) and "/deployments/" not in model:
            problem = f"{model} is the serverless model there, not your deployment: other billing, other limits"
            return [Trouble(route.name, "live", problem, _model_setting(route) + _deployment(model), severe=False)]
        return []
    if completion.code in WAITS:
        problem, remedy = _scaled_to_zero(completion.code)
    elif status in (401, 403):
        trouble = _of_key(look, Answer(0, status), config, environ, alone=True)
        problem, remedy = (trouble.problem, trouble.remedy) if trouble else ("it asks for a key", "give it one")
    elif status == 404 and _is_unknown(look.answer) and "model" not in completion.code.lower():
        problem = "it knows neither the probe's path nor that of completions (status 404)"
        remedy = "check the path of its base URL (/v1?)"
    elif status == 404:
        named = ", ".join(look.models[:MOST_NAMED]) + (", ..." if len(look.models) > MOST_NAMED else "")
        what = remedy_for_model(model, direct=direct) or "correct the name"
        if look.models and model not in look.models:
            what += f" (it lists: {named})"
        problem, remedy = f"it has no model {model} (status 404)", f"{what}; {_model_setting(route)}"
    elif status == 429:
        problem, remedy = "it is too busy for one more request (status 429)", "wait, or give it more replicas"
    elif status is not None and (status != 200 or completion.failure == Failure.STATUS):
        called = f", {completion.code}" if completion.code else ""
        problem, remedy = f"it answered a completion with status {status}{called}", _of_status(status)
    else:
        problem = f"a completion brought no token ({completion.detail or completion.failure})"
        remedy = NO_STREAM.get(completion.failure or "", _of_status(500))
    return [Trouble(route.name, "live", problem, remedy)]


def _of_failure(look: Look, failure: Failure) -> tuple[str, str]:
    """What a failure means, and what to do."""
    url = urlsplit(look.route.url)
    plain, host = url.scheme == "http", url.hostname or ""
    port = url.port or (80 if plain else 443)
    place = f"{host}:{port}"
    if look.proxy is not None and failure is not Failure.CERTIFICATE:
        directly = "or name the host in NO_PROXY if it can be reached directly"
        if look.step in ("dns", "connect"):
            variable = f"{url.scheme.upper()}_PROXY (or ALL_PROXY)"
            return (
                f"the proxy {look.proxy} is not reached ({look.detail})",
                f"see whether it is up, and the one that {variable} should name; {directly}",
            )
        why = f" ({look.detail})" if look.detail != failure else ""
        return f"it was not reached through the proxy {look.proxy}{why}", f"allow {place} there, {directly}"
    match failure:
        case Failure.DNS:
            return f"the name {host} was not found ({look.detail})", _of_name(look.route, host)
        case Failure.CLIENT_CERTIFICATE:
            return (
                f"{place} does not accept this client's certificate, or asks for one ({look.detail})",
                "set client_cert and client_key of the route to files that it accepts",
            )
        case Failure.RESET | Failure.CONNECT if look.step == "tls":
            return (
                f"{place} broke off the TLS handshake ({look.detail})",
                "see whether it lets this client in, and speaks TLS on this port (if not, and in your own network: http://)",
            )
        case Failure.CONNECT if "refused" in look.detail.lower():
            return f"{place} refuses connections", "check the port, and that the server is up and listens there"
        case Failure.CONNECT:
            return f"no connection to {place} ({look.detail})", "check this machine's network and its routes"
        case Failure.CONNECT_TIMEOUT if look.step == "tls":
            return (
                f"{place} accepts connections, and TLS is not answered",
                "see whether a firewall looks into TLS, or a load balancer has nothing behind it",
            )
        case Failure.CONNECT_TIMEOUT:
            private = look.route.kind is Kind.PRIVATE
            return (
                f"{place} answers nothing: packets are dropped",
                f"allow outgoing TCP to port {port} in firewalls and security groups"
                + ("; a private endpoint can be reached from its own network only" if private else ""),
            )
        case Failure.CERTIFICATE:
            return _of_certificate(look, host)
        case Failure.TLS:
            return _of_tls(look, place)
        case Failure.RESET | Failure.PROTOCOL | Failure.WRITE if plain:
            return (
                f"{place} does not answer in plain HTTP ({look.detail})",
                "write https:// if it speaks TLS on this port",
            )
        case Failure.RESET | Failure.WRITE:
            return f"{place} closed the connection without an answer", _of_closed(look)
        case Failure.PROTOCOL:
            return f"{place} does not speak HTTP ({look.detail})", "check the port"
        case _:
            return (
                f"the connection stands, and no answer came ({look.detail})",
                "see whether its replicas are up, or a longer limit is needed (--limit)",
            )


def _of_closed(look: Look) -> str:
    up = "see whether the server, or a proxy before it, is up"
    if look.route.client_cert:
        return f"{up}, and accepts the certificate in client_cert"
    return f"{up} (or asks for a client's certificate: client_cert)" if look.tls is not None else up


def _of_name(route: Route, host: str) -> str:
    if is_handle_host(host):
        return "copy the handle again from the deployment's page; if it is right, ask this machine's DNS for it"
    if route.kind is Kind.PRIVATE:
        return (
            "set up the private DNS zone for it, as it resolves in its own network only; "
            "or use the address as the URL, and the name as server_name"
        )
    return "check the spelling of the host, and this machine's DNS"


def _of_certificate(look: Look, host: str) -> tuple[str, str]:
    name = look.route.server_name or host
    if look.reason in ANOTHER_NAME or "mismatch" in look.detail.lower():
        other = f"{', '.join(look.names[:MOST_NAMED])}, not for {name}" if look.names else f"another name than {name}"
        remedy = (
            "correct server_name: it has to be a name that the certificate is for"
            if look.route.server_name
            else "use the name that the certificate is for; where the address has to be another one, set server_name"
        )
        return f"its certificate is for {other}", remedy
    if look.reason == EXPIRED or "expired" in look.detail.lower():
        return "its certificate has expired", "have it renewed; and check this machine's clock"
    if look.reason == NOT_YET_VALID:
        return "its certificate is not valid yet", "check this machine's clock"
    if look.reason in UNKNOWN_ISSUER or "issuer" in look.detail.lower() or "self-signed" in look.detail.lower():
        by = f"the proxy {look.proxy}" if look.proxy else "a proxy that looks into TLS"
        if look.route.ca_file:
            return (
                "its certificate's issuer is not in its ca_file",
                f"put the authority that has issued it into ca_file; or see whether {by} has issued it",
            )
        return (
            "its certificate's issuer is not known here",
            f"name the authority's file, in SSL_CERT_FILE or as the route's ca_file; or see whether {by} has issued it",
        )
    return f"its certificate is not accepted ({look.detail})", "have the server's certificate mended"


def _of_tls(look: Look, place: str) -> tuple[str, str]:
    match look.reason:
        case "WRONG_VERSION_NUMBER" | "RECORD_LAYER_FAILURE" | "PACKET_LENGTH_TOO_LONG" | "HTTP_REQUEST":
            return (
                f"{place} does not speak TLS",
                "use the port that does; or write http://, if it is in a network of your own",
            )
        case reason if "HANDSHAKE_FAILURE" in reason:
            return (
                f"{place} refuses this client in the TLS handshake ({reason})",
                "set client_cert and client_key of the route, if it asks for a client's certificate",
            )
        case reason if "UNRECOGNIZED_NAME" in reason:
            return f"{place} knows no server of this name", "set server_name to the name that it expects"
        case reason:
            return f"TLS with {place} fails ({reason or look.detail})", "see what the server supports: TLS 1.2 or newer"


def _of_key(look: Look, answer: Answer, config: Config, environ: Mapping[str, str], *, alone: bool) -> Trouble | None:
    """What a 401 or 403 means. `alone`: no other key was accepted."""
    route, status = look.route, answer.status
    on_global = route.kind is Kind.GLOBAL
    if not route.keys:
        if on_global:
            return None  # the callers bring theirs
        remedy = f"set {key_variable(route.name)}, or {PREFIX}API_KEY for all routes"
        return Trouble(route.name, "request", f"it asks for a key (status {status}), and none is configured", remedy)
    number = answer.key or 0
    key = route.keys[number]
    which = (
        f"key {number + 1} of {len(route.keys)}, {redacted(key)},"
        if len(route.keys) > 1
        else f"its key {redacted(key)}"
    )
    problem = f"{which} is refused (status {status})"
    if not alone:
        remedy = "take it out, or renew it; requests go with the next key"
        return Trouble(route.name, "request", problem, remedy, severe=False)
    own = f"{PREFIX}GLOBAL_API_KEY"
    if on_global and urlsplit(route.url).hostname == GLOBAL_HOST:
        own = f"{GLOBAL_KEY_VARIABLE} or {own}"
    console = (config.global_api_key, environ.get(GLOBAL_KEY_VARIABLE, "").strip())
    if on_global:
        if any(key in each.keys and not _takes_console_keys(each, config) for each in config.routes):
            problem += "; it is a route's key too, and a direct key is no console key"
            return Trouble(route.name, "request", problem, f"set the console key in {own}")
        return Trouble(route.name, "request", problem, f"set the right key in {own}")
    setting = f"{key_variable(route.name)}, or {PREFIX}API_KEY for all routes"
    if (key in console or looks_like_console_key(key)) and not _takes_console_keys(route, config):
        same = "is the global endpoint's key too" if key in console else "looks like a console key"
        problem += f"; it {same}, and a console key is no direct key"
        return Trouble(route.name, "request", problem, f"set the deployment's direct route key in {setting}")
    return Trouble(route.name, "request", problem, f"set the key that the deployment was given in {setting}")


def _takes_console_keys(route: Route, config: Config) -> bool:
    """Whether a route leads to the host of the global endpoint: to a deployment behind the vendor's gateway."""
    host = urlsplit(route.url).netloc
    return host == GLOBAL_HOST or (config.global_url is not None and host == urlsplit(config.global_url).netloc)


def _is_unknown(answer: Answer | None) -> bool:
    return answer is not None and answer.status == 404


def of_answer(look: Look) -> list[Trouble]:
    """What the answer to the GET means, if its key was not refused."""
    if (answer := look.answer) is None or answer.refuses_key:
        return []
    name, status = look.route.name, answer.status or 0
    if answer.code in WAITS:
        return [Trouble(name, "request", *_scaled_to_zero(answer.code))]
    if status == 200 and not answer.is_json:
        problem = "it answers, but not as an API does: the body is no JSON"
        return [Trouble(name, "request", problem, LOGIN_PAGE)]
    if 300 <= status < 400:
        where = f" to {answer.location}" if answer.location else ""
        return [Trouble(name, "request", f"it redirects{where} (status {status})", ELSEWHERE)]
    if status == 404:
        problem = "it does not know the probe's path (status 404)"
        remedy = f"check the path of its base URL; if that is right, set {PREFIX}PROBE_PATH to a path that it has"
        return [Trouble(name, "request", problem, remedy, severe=False)]
    if status == 429:
        return [Trouble(name, "request", "it is busy (status 429)", "wait, or give it more replicas", severe=False)]
    if status >= 500:
        called = f", {answer.code}" if answer.code else ""
        return [Trouble(name, "request", f"it is not well (status {status}{called})", _of_status(status))]
    if status >= 400:
        remedy = f"set {PREFIX}PROBE_PATH to a path that can be read with GET"
        return [Trouble(name, "request", f"it answers the probe with status {status}", remedy, severe=False)]
    return []


def _scaled_to_zero(code: str) -> tuple[str, str]:
    return (
        f"it was scaled to zero and is starting ({code})",
        "wait some minutes and check again; or give it one replica at least, so that it never goes",
    )


def _of_status(status: int) -> str:
    if status in (402, 412):
        return "see to the account: its quota, its billing"
    if status in (400, 413, 422):
        return "see whether the model is one for chat completions"
    if status == 425:
        return "wait until the deployment is ready"
    return "see whether its replicas are up; try again"


def _model_setting(route: Route) -> str:
    if route.name == GLOBAL:
        return f"set {PREFIX}GLOBAL_MODEL, and what the application asks for"
    return f"set {PREFIX}MODEL, or model in the route's [[route]] table"


def _deployment(model: str) -> str:
    return f" to {model}#accounts/ACCOUNT/deployments/DEPLOYMENT"
