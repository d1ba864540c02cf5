"""What issue 2 asks for, in small: the best route serves nearly all calls, and its end costs none of them."""

from collections import Counter
from contextlib import ExitStack

from smartroute import Config, Route
from smartroute.testing import Region
from tests.transport.kit import TEXT, Caller, eventually

LATENCIES = {"third": 0.300, "mid": 0.150, "best": 0.020}  # so far apart that no noise hides it


def test_the_best_route_serves_and_its_end_costs_nothing(caller: Caller) -> None:
    with ExitStack() as stack:
        routes = [stack.enter_context(Region(name, latency=seconds)) for name, seconds in LATENCIES.items()]
        globe = stack.enter_context(Region("globe", prefix="/inference/v1"))
        config = Config(
            [Route(region.url, name=region.name) for region in routes],
            api_key="fake-key",
            global_url=globe.url,
            probe_interval=0.5,
        )
        client = caller.client(config)
        sdk = caller.sdk(client, globe.url)
        assert eventually(lambda: caller.ask(sdk, stream=True).route == "best")
        healthy = [caller.ask(sdk, stream=True) for _ in range(60)]
        served = Counter(reply.route for reply in healthy)
        assert served["best"] >= 48, served
        assert all(reply.text.endswith(TEXT) for reply in healthy)

        routes[-1].stop()
        after = [caller.ask(sdk, stream=True) for _ in range(6)]
        assert Counter(reply.route for reply in after) == {"mid": 6}
        assert [reply.attempts for reply in after[1:]] == ["1"] * 5

        for region in routes[:-1]:
            region.stop()
        last = [caller.ask(sdk, stream=True) for _ in range(3)]
        assert [(reply.route, reply.text) for reply in last] == [("global", "globe" + TEXT)] * 3
        caller.close(client)
