"""What spans and metrics have in common: their scope, and how they say things."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

__all__ = ["SCOPE", "Attribute", "error_type", "given", "package_version", "records"]

Attribute = str | bool | int | float | list[str]

SCOPE = "smartroute"


@cache
def package_version() -> str:
    """The version of the scope."""
    try:
        return version("smartroute")
    except PackageNotFoundError:  # run from a checkout
        return ""


def records(provider: TracerProvider | MeterProvider) -> bool:
    """Whether a provider does anything: those of the API itself (proxy, no-op) don't."""
    return not type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


def error_type(status: int | None, failure: str | None) -> str | None:
    """What the conventions call `error.type`. What the caller cancelled is no error."""
    if failure == "cancelled":
        return None
    return str(status) if status is not None and status >= 400 else failure


def given(attributes: Mapping[str, Attribute | None]) -> dict[str, Attribute]:
    """The attributes that have a value; times to the microsecond, which is as far as anybody reads."""
    return {
        name: round(value, 6) if type(value) is float else value
        for name, value in attributes.items()
        if value is not None
    }
