"""Three calls and their traces: a healthy one, one that fails over, and one whose region falls silent.

Needs the extra `demo`. Regions on localhost stand in for real ones. docs/tracing.md explains what is printed.
"""

from itertools import count

from openai import OpenAI

import smartroute
from smartroute.demo.trace import Tracing
from smartroute.testing import Region, Silence

tracing = Tracing()
numbers = count(1)


def ask(client: OpenAI) -> int:
    """Make a streamed call, with a span of the application's own around it; gives its number."""
    number = next(numbers)
    with tracing.call(number):
        messages = [{"role": "user", "content": "Hello!"}]
        for _ in client.chat.completions.create(model="any", messages=messages, stream=True):
            pass
    return number


def show(title: str, call: int) -> None:
    """Print a call's trace."""
    print(f"{title}\n", *tracing.tree(call, ascii_only=False), sep="\n", end="\n\n")


with (
    Region("frankfurt", latency=0.02) as frankfurt,
    Region("virginia", latency=0.06) as virginia,
    Region("tokyo", latency=0.14) as tokyo,
):
    routes = [smartroute.Route(region.url, name=region.name) for region in (frankfurt, virginia, tokyo)]
    config = smartroute.Config(routes, api_key="fake-direct-key", global_url="off", probe_interval=0.5)
    http_client = smartroute.Client(config, trust_env=False)
    with OpenAI(base_url=frankfurt.url, api_key="fake-direct-key", http_client=http_client, max_retries=0) as client:
        while ask(client) < 20 or any(status.round_trip is None for status in http_client.router.status()):
            pass  # until all regions are measured, and it is known how long an answer takes
        show("A healthy call", ask(client))

        frankfurt.stop()
        show("A call that fails over", ask(client))

        frankfurt.start()
        while http_client.router.status()[0].state != "closed" or http_client.router.pick().name != "frankfurt":
            ask(client)
        frankfurt.set(Silence())
        show("A call whose region falls silent", ask(client))
