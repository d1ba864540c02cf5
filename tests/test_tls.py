"""The files of a route's own TLS: what can be used is, and what cannot be is told with its remedy, unquoted."""

import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from smartroute import Route
from smartroute.errors import ConfigError
from smartroute.tls import own_context

URL = "https://10.0.0.5/v1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of all kinds."""
    folder, authority = tmp_path_factory.mktemp("fw_pem"), trustme.CA()
    leaf, other = (authority.issue_cert(f"{name}@example.org") for name in ("a", "b"))
    key = leaf.private_key_pem.bytes()
    locked = load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"fake-passphrase")
    )
    cert = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    files = {
        "ca": authority.cert_pem.bytes(),
        "cert": cert,
        "key": key,
        "both": key + cert,
        "other": other.private_key_pem.bytes(),
        "locked": locked,
        "locked-both": locked + cert,
        "garbled": b"-----BEGIN CERTIFICATE-----\nfw_fake\n-----END CERTIFICATE-----\n",
        "garbled-key": b"-----BEGIN PRIVATE KEY-----\nfw_fake\n-----END PRIVATE KEY-----\n",
        "der": ssl.PEM_cert_to_DER_cert(authority.cert_pem.bytes().decode()),
        "empty": b"",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def route(folder: Path, **files: str) -> Route:
    return Route(URL, name="psc", **{setting: str(folder / name) for setting, name in files.items()})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "files", [{"ca_file": "ca"}, {"client_cert": "both"}, {"ca_file": "ca", "client_cert": "cert", "client_key": "key"}]
)
def test_what_can_be_used(folder: Path, files: dict[str, str]) -> None:
    context = own_context(route(folder, **files))
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(context.get_ca_certs()) == ("ca_file" in files)


def test_without_authorities_of_its_own_it_has_those_it_is_given(folder: Path) -> None:
    systems = ssl.create_default_context()
    assert own_context(route(folder, client_cert="both"), lambda: systems) is systems
    assert own_context(route(folder, ca_file="ca"), lambda: systems) is not systems


NO_FILE = "cannot be read (No such file or directory)"


@pytest.mark.parametrize(
    ("files", "problems"),
    [
        ({"ca_file": "none"}, [f"ca_file {NO_FILE}"]),
        ({"ca_file": "."}, ["ca_file cannot be read (Is a directory)"]),
        ({"ca_file": "der"}, ["ca_file has no certificate as PEM has them"]),
        ({"ca_file": "empty"}, ["ca_file has no certificate as PEM has them"]),
        ({"ca_file": "key"}, ["ca_file has no certificate as PEM has them"]),
        ({"ca_file": "garbled"}, ["ca_file has a certificate that cannot be read"]),
        ({"client_cert": "none"}, [f"client_cert {NO_FILE}"]),
        ({"client_cert": "cert"}, ["client_cert has no key as PEM has them"]),
        ({"client_cert": "key"}, ["client_cert has no certificate as PEM has them"]),
        ({"client_cert": "cert", "client_key": "none"}, [f"client_key {NO_FILE}"]),
        ({"client_cert": "cert", "client_key": "cert"}, ["client_key has no key as PEM has them"]),
        (
            {"client_cert": "cert", "client_key": "other"},
            ["client_key has a key that is not that of the first certificate in client_cert"],
        ),
        (
            {"client_cert": "cert", "client_key": "locked"},
            ["client_key has a key with a passphrase, for which nobody can be asked"],
        ),
        ({"client_cert": "locked-both"}, ["client_cert has a key with a passphrase, for which nobody can be asked"]),
        (
            {"client_cert": "cert", "client_key": "garbled-key"},
            ["client_key or the certificate in client_cert cannot be read"],
        ),
        (
            {"client_cert": "garbled", "client_key": "key"},
            ["client_key or the certificate in client_cert cannot be read"],
        ),
        (
            {"ca_file": "none", "client_cert": "none", "client_key": "empty"},
            [f"ca_file {NO_FILE}", f"client_cert {NO_FILE}", "client_key has no key as PEM has them"],
        ),
    ],
)
def test_what_cannot_be_used(folder: Path, files: dict[str, str], problems: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        own_context(route(folder, **files))
    assert [each.problem for each in caught.value.problems] == problems
    assert {each.setting for each in caught.value.problems} == {"route 'psc'"}
    assert all(each.remedy for each in caught.value.problems)
    assert "fw_" not in str(caught.value)


def test_a_file_without_an_end(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no certificate as PEM has them"):
        own_context(route(folder, ca_file="/dev/zero"))


class Late(ssl.SSLContext):
    """A context that looks at its files when they are gone."""

    def load_cert_chain(self, certfile: Any, keyfile: Any = None, password: Any = None) -> None:
        Path(keyfile).unlink()
        super().load_cert_chain(certfile, keyfile, password)


def test_a_file_that_vanishes_while_it_is_read(folder: Path, tmp_path: Path) -> None:
    vanishing = tmp_path / "key.pem"
    vanishing.write_bytes((folder / "key").read_bytes())
    with pytest.raises(ConfigError, match="client_key or the certificate in client_cert cannot be read"):
        own_context(route(folder, client_cert="cert", client_key=str(vanishing)), lambda: Late(ssl.PROTOCOL_TLS_CLIENT))


def test_nobody_is_asked_for_a_passphrase(folder: Path) -> None:
    """OpenSSL would, on the terminal, and wait."""
    code = "import sys; from smartroute import Config, Route; Config([Route(sys.argv[1], client_cert=sys.argv[2])])"
    done: Any = subprocess.run(
        [sys.executable, "-c", code, URL, folder / "locked-both"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "has a key with a passphrase" in done.stderr
    assert "Enter PEM" not in done.stderr + done.stdout


def test_ssl_is_not_loaded_for_routes_that_do_not_need_it() -> None:
    code = f"import sys, smartroute; smartroute.Config([{URL!r}], api_key='k'); sys.exit('ssl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
