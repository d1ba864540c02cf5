"""One question to two Azure OpenAI resources, by the SDK's AzureOpenAI client: who answered?

SMARTROUTE_API_KEY_SWEDEN=... SMARTROUTE_API_KEY_FRANCE=... \
python examples/recipes/ask_azure.py examples/recipes/azure.toml
"""

import os
import sys

from openai import AzureOpenAI

import smartroute

config = smartroute.Config.from_toml(sys.argv[1], os.environ)
first = config.routes[0]

client = AzureOpenAI(
    azure_endpoint=first.url.partition("/openai/")[0],
    azure_deployment="gpt-4o",
    api_version="2024-10-21",
    api_key=first.keys[0],  # or azure_ad_token_provider=...: what the SDK has goes to the resource it addresses
    http_client=smartroute.Client(config),
)
with client:
    answer = client.chat.completions.with_raw_response.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Say hello."}]
    )
    print(answer.parse().choices[0].message.content)
    print(f"answered by {answer.headers['x-smartroute-route']}, attempts: {answer.headers['x-smartroute-attempts']}")
