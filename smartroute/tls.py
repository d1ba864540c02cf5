"""The TLS of a route that has its own: its files, and a remedy for each that cannot be used.

A route that names its authorities, or shows a certificate, shares nothing with the client's `verify=` and `cert=`:
neither can weaken the other.
"""

import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

from smartroute.route import Checks, Route, refusal

__all__ = ["own_context"]

MOST_READ = 16 * 1024 * 1024
"""Bytes of a file that are looked at: /dev/zero has more."""

_empty = partial(ssl.SSLContext, ssl.PROTOCOL_TLS_CLIENT)


def own_context(route: Route, system: Callable[[], ssl.SSLContext] = _empty) -> ssl.SSLContext:
    """A context for a route's connections, made of its files.

    Args:
        system: makes one that trusts the authorities of the system, for a route that names none.

    Raises:
        ConfigError: with everything that is wrong with the files.
    """
    checks, setting = Checks(), f"route {route.name!r}"
    context = system() if route.ca_file is None else checks.read(setting, _trusting, route.ca_file, _empty(), "ca_file")
    if (cert := route.client_cert) is not None:
        key, which = (cert, "client_cert") if route.client_key is None else (route.client_key, "client_key")
        there = checks.read(setting, _has_certificate, cert, default=False, of="client_cert")
        if (there or key is not cert) and checks.read(setting, _has_key, key, default=False, of=which) and there:
            checks.read(setting, partial(_show, context, cert), key, None, which)
    checks.finish()
    return context


def _trusting(file: object) -> ssl.SSLContext:
    _has_certificate(file)
    try:
        return ssl.create_default_context(cafile=str(file))
    except OSError:  # ssl.SSLError is one
        raise refusal(" has a certificate that cannot be read", "export it again as PEM") from None


def _has_certificate(file: object) -> bool:
    if b"CERTIFICATE-----" not in _read(file):
        raise refusal(" has no certificate as PEM has them", "name a file with -----BEGIN CERTIFICATE----- in it")
    return True


def _has_key(file: object) -> bool:
    if b"PRIVATE KEY-----" not in _read(file):
        raise refusal(
            " has no key as PEM has them", "name a file with -----BEGIN PRIVATE KEY----- in it as the client_key"
        )
    return True


def _read(file: object) -> bytes:
    try:
        with Path(str(file)).open("rb") as opened:
            return opened.read(MOST_READ)
    except OSError as error:
        raise refusal(f" cannot be read ({error.strerror})", "name a readable PEM file by its full path") from None


def _show(context: ssl.SSLContext, cert: str, key: object) -> None:
    try:
        context.load_cert_chain(cert, str(key), _refuse_passphrase)
    except OSError as error:  # ssl.SSLError is one
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            raise refusal(
                " has a key that is not that of the first certificate in client_cert",
                "name two files that belong together; in client_cert the certificate itself stands first",
            ) from None
        raise refusal(" or the certificate in client_cert cannot be read", "export both again as PEM") from None


def _refuse_passphrase() -> str:
    raise refusal(
        " has a key with a passphrase, for which nobody can be asked",
        "take it off (openssl pkey -in key.pem -out plain.pem) and let only this service read the file",
    )
