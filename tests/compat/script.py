"""Calls of every kind by an older OpenAI SDK, configured by SMARTROUTE_* variables alone.

Run by `test_compat.py` in another environment. For each line on standard input it makes the calls and writes
what came of them as one line of JSON.
"""

import asyncio
import json
import sys
from typing import Any

import openai

import smartroute

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Where are you?"}]}


def text_of(chunks: list[Any]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def call(sdk: openai.OpenAI) -> list[tuple[str, str]]:
    create = sdk.chat.completions.with_raw_response.create
    whole = create(**CHAT)
    found = [(whole.headers["x-smartroute-route"], whole.parse().choices[0].message.content or "")]
    streamed = create(**CHAT, stream=True)
    return [*found, (streamed.headers["x-smartroute-route"], text_of(list(streamed.parse())))]


async def call_async(sdk: openai.AsyncOpenAI) -> list[tuple[str, str]]:
    create = sdk.chat.completions.with_raw_response.create
    whole = await create(**CHAT)
    found = [(whole.headers["x-smartroute-route"], whole.parse().choices[0].message.content or "")]
    streamed = await create(**CHAT, stream=True)
    chunks = [chunk async for chunk in streamed.parse()]
    return [*found, (streamed.headers["x-smartroute-route"], text_of(chunks))]


def main() -> None:
    client = smartroute.Client()
    sdk = openai.OpenAI(http_client=client, max_retries=0)
    async_sdk = openai.AsyncOpenAI(http_client=smartroute.AsyncClient(), max_retries=0)
    about = {"openai": openai.__version__, "client": type(client).__mro__[1].__module__}
    print(json.dumps(about), flush=True)
    for _ in sys.stdin:
        try:
            found = {"sync": call(sdk), "async": asyncio.run(call_async(async_sdk))}
        except openai.APIError as error:
            print(json.dumps({"error": type(error).__name__}), flush=True)
        else:
            print(json.dumps(found), flush=True)
    sdk.close()
    asyncio.run(async_sdk.close())


if __name__ == "__main__":
    main()
