"""`smartroute explain`: the ranking for a request, with the parts of each score."""

from smartroute import Config, Route
from smartroute.cli.explain import explanation_of
from smartroute.testing import Region
from tests.cli.kit import CONSOLE, DEPLOYMENT, DIRECT, HOST, MODEL, OTHER, free_port, routes, run


def test_everybody_has_a_place_or_a_reason(near: Region, globe: Region) -> None:
    with Region("second", api_keys=[DIRECT], latency=0.15) as second, Region("wrong", api_keys=[OTHER]) as wrong:
        config = Config(
            [
                Route(f"http://{HOST}:{free_port()}/v1", name="down", region="EU_PARIS_1"),
                Route(wrong.url, name="wrong", region="EU_PARIS_1"),
                Route(second.url, name="second", region="EU_PARIS_1", model=f"mine={MODEL}"),
                Route(f"{second.url}/other", name="elsewhere", region="US_IOWA_1"),
                Route(f"{second.url}/small", name="small", region="EU_PARIS_1", model="little=small"),
                Route(near.url, name="near", region="EU_FRANKFURT_1", model=f"mine={MODEL}"),
            ],
            api_key=DIRECT,
            global_url=globe.url,
            global_api_key=CONSOLE,
            regions=["EU_*", "GLOBAL"],
        )
        found = explanation_of(config, model="mine")
        assert not any("other" in seen.target for seen in second.requests)
    assert not found.passes_through
    assert [(each.place, each.route.name, each.reason) for each in found.endpoints] == [
        (1, "near", "best"),
        (2, "second", "next"),
        (3, "global", "fallback"),
        (4, "down", "last_resort"),
        (None, "wrong", "key_refused"),
        (None, "elsewhere", "region"),
        (None, "small", "model"),
    ]
    first, second_best, *_ = found.endpoints
    assert first.model == MODEL
    assert first.candidate is not None
    assert second_best.candidate is not None
    assert first.candidate.score is not None
    assert second_best.candidate.score is not None
    assert first.candidate.score < 0.15 <= second_best.candidate.score
    notes = {each.route.name: each.note for each in found.endpoints}
    assert notes["down"] == "its probe: connect: Connection refused"
    assert notes["wrong"] == "its probe: status 401"


def test_one_probe_that_hears_nothing_is_no_proof(near: Region) -> None:
    near.stop(silently=True)
    config = Config([Route(near.url, name="near")], api_key=DIRECT, global_url=None)
    (route,) = explanation_of(config, limit=0.2).endpoints
    assert route.candidate is not None
    assert route.candidate.state == "open"


def test_what_passes_through(near: Region) -> None:
    config = Config([Route(near.url, name="near", model=f"mine={MODEL}")], api_key=DIRECT, global_url=None)
    found = explanation_of(config, path="/responses")
    assert "/responses is not among the paths" in found.passes_through
    assert [(each.place, each.reason) for each in found.endpoints] == [(None, "path")]
    assert "no route serves the model theirs" in explanation_of(config, model="theirs").passes_through
    assert not explanation_of(config, model="mine").passes_through


def test_a_route_may_serve_some_paths_only(near: Region) -> None:
    with Region("second", api_keys=[DIRECT]) as second:
        config = Config(
            [Route(near.url, name="near", paths=["/embeddings"]), Route(second.url, name="second")],
            api_key=DIRECT,
            global_url=None,
        )
        found = explanation_of(config)
        assert [(each.route.name, each.reason) for each in found.endpoints] == [("second", "best"), ("near", "path")]
        assert explanation_of(config, path="/embeddings").endpoints[-1].place == 2


def test_the_command(near: Region, globe: Region) -> None:
    variables = {
        "SMARTROUTE_ROUTES": routes({"near": near}),
        "SMARTROUTE_API_KEY": DIRECT,
        "SMARTROUTE_MODEL": MODEL,
        "SMARTROUTE_GLOBAL_URL": globe.url,
    }
    done = run("explain", "--conversation", "fake-conversation", **variables)
    assert done.status == 0, done.output
    _, first, second, *_ = done.output.splitlines()
    assert first.split()[:2] == ["1", "near"]
    assert first.endswith("the best score")
    assert second.endswith("the global endpoint, where the race ends")
    assert "A conversation stays" in done.output
    assert "fake-conversation" not in done.output
    shown = run("explain", "--json", "--model", DEPLOYMENT, "--size", "100000", **variables).json()
    assert shown["passes_through"] is None
    route, world = shown["endpoints"]
    assert set(route) == set(world)
    assert (route["place"], route["model"], route["reason"], route["state"]) == (1, MODEL, "best", "closed")
    assert route["score_ms"] == route["parts"]["round_trip_ms"] > 0
    assert (world["reason"], world["model"], world["parts"]) == ("fallback", DEPLOYMENT, None)


def test_a_path_may_be_written_without_its_slash(near: Region) -> None:
    config = Config([Route(near.url, name="near", api_key=DIRECT)], global_url=None)
    assert not explanation_of(config, path="chat/completions").passes_through
    assert explanation_of(config, path="responses").passes_through.startswith("/responses is not")


def test_the_global_endpoint_is_no_good_answer(near: Region, globe: Region) -> None:
    variables = {"SMARTROUTE_API_KEY": OTHER, "SMARTROUTE_GLOBAL_URL": globe.url}
    done = run("explain", SMARTROUTE_ROUTES=routes({"near": near}), **variables)
    assert done.status == 1
    assert "its key is refused" in done.output
    done = run("explain", "--path", "/responses", SMARTROUTE_ROUTES=routes({"near": near}), **variables)
    assert done.status == 1
    assert "It would pass through" in done.output
    assert run("explain", "--size", "-1").status == 2
