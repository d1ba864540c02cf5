"""`phoenix serve` with all of its ports on loopback: its gRPC port has no setting for that.

Runs in Phoenix's own environment.
"""

from typing import Any

import grpc.aio  # type: ignore[import-not-found,import-untyped,unused-ignore]

_everywhere = grpc.aio.server


def _on_loopback(*arguments: Any, **options: Any) -> Any:
    server = _everywhere(*arguments, **options)
    add_port = server.add_insecure_port
    server.add_insecure_port = lambda address: add_port(f"127.0.0.1:{address.rpartition(':')[2]}")
    return server


if __name__ == "__main__":
    grpc.aio.server = _on_loopback

    from phoenix.server.main import main  # type: ignore[import-not-found,import-untyped,unused-ignore]

    main()
