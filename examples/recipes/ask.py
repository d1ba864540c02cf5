"""One question to the routes of a recipe, by the OpenAI SDK: who answered?

SMARTROUTE_API_KEY=... python examples/recipes/ask.py examples/recipes/vllm.toml [MODEL]
"""

import os
import sys

from openai import OpenAI

import smartroute

config = smartroute.Config.from_toml(sys.argv[1], os.environ)
base_url = config.global_url or config.routes[0].url  # whose key the SDK has is whom it addresses
api_key = os.environ.get("OPENAI_API_KEY") or config.routes[0].keys[0]

with OpenAI(base_url=base_url, api_key=api_key, http_client=smartroute.Client(config)) as client:
    answer = client.chat.completions.with_raw_response.create(
        model=sys.argv[2] if len(sys.argv) > 2 else "gpt-4o", messages=[{"role": "user", "content": "Say hello."}]
    )
    print(answer.parse().choices[0].message.content)
    print(f"answered by {answer.headers['x-smartroute-route']}, attempts: {answer.headers['x-smartroute-attempts']}")
