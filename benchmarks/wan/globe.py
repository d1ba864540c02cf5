"""The global endpoint: a real Envoy that forwards to the best region it can reach."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.wan.server import PORT

__all__ = ["ENVOY", "configuration"]

ENVOY = Path(".venvs/envoy/bin/envoy")
"""`make .venvs/envoy/.installed` puts it there."""
CONNECT = "1s"
LOOKING = {"timeout": "1s", "interval": "2s", "unhealthy_threshold": 2, "healthy_threshold": 1}
RETRIES = 2


def configuration(host: str, regions: Sequence[str], certificate: Path, authority: Path) -> str:
    """Envoy's configuration as JSON: TLS in front and behind, health checks, failover in the order of the regions.

    Args:
        host: the address that it listens on; `regions`: theirs, the best first.
        certificate: its own with its key; `authority`: who has signed those of the regions.
    """
    manager = {
        "@type": _type("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "globe",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [_route()]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": _type("filters.http.router.v3.Router")}}],
    }
    own = {"filename": f"{certificate}"}
    listener = {
        "address": _socket(host),
        "filter_chains": [
            {
                "filters": [{"name": "http", "typed_config": manager}],
                "transport_socket": _tls(
                    "Downstream",
                    tls_params={"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                    tls_certificates=[{"certificate_chain": own, "private_key": own}],
                ),
            }
        ],
    }
    groups = [
        {"priority": number, "lb_endpoints": [{"endpoint": {"address": _socket(region)}}]}
        for number, region in enumerate(regions)
    ]
    cluster = {
        "name": "regions",
        "type": "STATIC",
        "connect_timeout": CONNECT,
        "load_assignment": {"cluster_name": "regions", "endpoints": groups},
        "health_checks": [{**LOOKING, "http_health_check": {"path": "/v1/models", "host": "regions"}}],
        "transport_socket": _tls(
            "Upstream",
            tls_params={"tls_maximum_protocol_version": "TLSv1_3"},
            validation_context={"trusted_ca": {"filename": f"{authority}"}},
        ),
    }
    return json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})


def _route() -> dict[str, Any]:
    previous = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    other = "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"
    again = {
        "retry_on": "connect-failure,reset,5xx",
        "num_retries": RETRIES,
        "retry_host_predicate": [
            {"name": "previous_hosts", "typed_config": {"@type": f"type.googleapis.com/{previous}"}}
        ],
        "retry_priority": {
            "name": "previous_priorities",
            "typed_config": {"@type": f"type.googleapis.com/{other}", "update_frequency": 1},
        },
    }
    return {"match": {"prefix": "/"}, "route": {"cluster": "regions", "timeout": "0s", "retry_policy": again}}


def _socket(host: str) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": PORT}}


def _tls(side: str, **common: Any) -> dict[str, Any]:
    kind = _type(f"transport_sockets.tls.v3.{side}TlsContext")
    return {"name": "tls", "typed_config": {"@type": kind, "common_tls_context": common}}


def _type(name: str) -> str:
    return f"type.googleapis.com/envoy.extensions.{name}"
