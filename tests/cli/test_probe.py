"""`smartroute probe`: rounds of measurements, in the order of the router's choice."""

from smartroute import Config, Route
from smartroute.cli.probe import percentile, rounds_of
from smartroute.testing import Region, Status
from tests.cli.kit import CONSOLE, DEPLOYMENT, DIRECT, HOST, MODEL, OTHER, free_port, routes, run


def test_the_order_is_the_routers(near: Region, globe: Region) -> None:
    near.latency = 0.15
    with Region("nearer", api_keys=[DIRECT]) as nearer, Region("wrong", api_keys=[OTHER]) as wrong:
        config = Config(
            [
                Route(f"http://{HOST}:{free_port()}/v1", name="down"),
                Route(wrong.url, name="wrong"),
                Route(near.url, name="near"),
                Route(nearer.url, name="nearer"),
            ],
            api_key=DIRECT,
            global_url=globe.url,
            global_api_key=CONSOLE,
        )
        steps: list[None] = []
        found = rounds_of(config, 3, done=lambda: steps.append(None))
    assert [each.route.name for each in found] == ["nearer", "near", "global", "down", "wrong"]
    assert [each.reason for each in found] == ["best", "next", "fallback", "last_resort", "key_refused"]
    assert [each.failures for each in found] == [0, 0, 0, 3, 3]
    assert len(steps) == 15
    best, second, _, down, wrong_key = found
    assert all(len(best.values(measure)) == 3 for measure in ("connect", "round_trip"))
    assert not best.values("tls")
    assert min(second.values("round_trip")) >= 0.15
    assert min(best.values("round_trip")) < 0.15
    assert down.last_failure == "connect: Connection refused"
    assert wrong_key.last_failure == "status 401"


def test_each_round_has_a_connection_of_its_own(near: Region) -> None:
    rounds_of(Config([near.url], api_key=DIRECT, global_url=None), 4)
    assert near.connections == 4


def test_two_rounds_of_silence_prove_that_a_route_is_dead(near: Region) -> None:
    near.stop(silently=True)
    config = Config([near.url], api_key=DIRECT, global_url=None)
    assert [each.state for each in rounds_of(config, 2, limit=0.2)] == ["open"]


def test_first_tokens(near: Region, globe: Region) -> None:
    near.latency = 0.05
    config = Config(
        [Route(near.url, name="near")],
        api_key=DIRECT,
        model=MODEL,
        global_url=globe.url,
        global_api_key=CONSOLE,
        global_model=DEPLOYMENT,
    )
    route, world = rounds_of(config, 2, live=True)
    assert route.failures == world.failures == 0
    assert len(route.values("first_token")) == len(world.values("first_token")) == 2
    assert min(route.values("first_token")) >= 0.05
    near.set(Status(503, only="post"))
    route, _ = rounds_of(config, 1, live=True)
    assert route.failures == 1
    assert route.last_failure == "completion: status 503"


def test_percentiles_are_of_the_nearest_rank() -> None:
    values = [number / 1000 for number in range(1, 101)]
    assert percentile(values, 0.50) == 0.050
    assert percentile(values, 0.99) == 0.099
    assert percentile([], 0.5) is None


def test_the_command(near: Region, globe: Region) -> None:
    variables = {
        "SMARTROUTE_ROUTES": routes({"near": near}),
        "SMARTROUTE_API_KEY": DIRECT,
        "SMARTROUTE_GLOBAL_URL": globe.url,
        "SMARTROUTE_GLOBAL_API_KEY": CONSOLE,
    }
    done = run("probe", "-n", "2", **variables)
    assert done.status == 0, done.output
    header, first, second = done.output.splitlines()
    assert "round trip p50" in header
    assert first.split()[:2] == ["1", "near"]
    assert second.split()[:2] == ["2", "global"]
    assert done.errors == ""
    near.set(Status(401))
    done = run("probe", "-n", "2", "--json", **variables)
    assert done.status == 1
    shown = done.json()
    assert (shown["rounds"], shown["healthy"]) == (2, False)
    world, route = shown["endpoints"]
    assert (world["name"], world["failures"], world["place"]) == ("global", 0, 1)
    assert (route["name"], route["failures"], route["last_failure"]) == ("near", 2, "status 401")
    assert set(route) == set(world)
    assert world["round_trip_ms"]["p50"] > 0
    assert world["first_token_ms"] == {"p50": None, "p99": None}


def test_wrong_usage(near: Region) -> None:
    done = run("probe")
    assert done.status == 2
    assert "SMARTROUTE_ROUTES" in done.errors
    variables = {"SMARTROUTE_ROUTES": near.url, "SMARTROUTE_API_KEY": DIRECT, "SMARTROUTE_GLOBAL_URL": "off"}
    assert run("probe", "-n", "0", **variables).status == 2
    done = run("probe", "--live", **variables)
    assert done.status == 2
    assert "--model" in done.errors
    done = run("probe", **variables, SMARTROUTE_DISABLED="1")
    assert done.status == 2
    assert "SMARTROUTE_DISABLED" in done.errors
