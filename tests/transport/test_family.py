"""What the drivers rely on in both HTTP families, so that a new release of either cannot change it unseen."""

from types import ModuleType

import httpcore2
import httpx
import httpx2
import pytest

from smartroute.transport.family import Family

MODULES = pytest.mark.parametrize("module", [httpx, httpx2], ids=lambda module: module.__name__)
THEIRS = [
    each
    for each in vars(httpcore2).values()
    if isinstance(each, type) and issubclass(each, Exception) and each is not httpcore2.ConnectionNotAvailable
]


@MODULES
@pytest.mark.parametrize("theirs", THEIRS, ids=lambda each: each.__name__)
def test_every_exception_of_httpcore_becomes_the_familys_of_that_name(
    module: ModuleType, theirs: type[Exception]
) -> None:
    request = module.Request("GET", "http://127.0.0.1/")
    ours = Family.of(module).error(theirs("words"), request)
    assert type(ours) is getattr(module, theirs.__name__)
    assert isinstance(ours, module.RequestError)
    assert (str(ours), ours.request) == ("words", request)


@MODULES
def test_other_exceptions_are_themselves(module: ModuleType) -> None:
    error = KeyError("k")
    assert Family.of(module).error(error, module.Request("GET", "http://127.0.0.1/")) is error


@MODULES
def test_proxies_are_found_as_the_family_finds_them(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:3128")
    monkeypatch.setenv("NO_PROXY", "internal.example")
    family = Family.of(module)
    found = sorted((family.pattern(key), url) for key, url in family.environment_proxies().items())
    for address, expected in (
        ("https://llm.example/v1", "http://127.0.0.1:3128"),
        ("https://llm.internal.example/v1", None),
    ):
        assert next(url for pattern, url in found if pattern.matches(module.URL(address))) == expected
