"""A streamed chat through smartroute, configured by SMARTROUTE_* alone; who answered, and what is known.

SMARTROUTE_ROUTES="fra=https://llm.eu.example/v1 iad=https://llm.us.example/v1" SMARTROUTE_API_KEY=... \
SMARTROUTE_GLOBAL_URL=https://llm.example/v1 OPENAI_API_KEY=... python examples/chat.py "Why is the sky blue?"
"""

import os
import sys

from openai import OpenAI

import smartroute

routed = smartroute.Client()
url = os.environ.get("SMARTROUTE_GLOBAL_URL", "https://api.fireworks.ai/inference/v1")
client = OpenAI(base_url=url, http_client=routed)

question = " ".join(sys.argv[1:]) or "Say hello."
answer = client.chat.completions.with_raw_response.create(
    model=os.environ.get("MODEL", "default"), messages=[{"role": "user", "content": question}], stream=True
)
for chunk in answer.parse():
    print(chunk.choices[0].delta.content or "" if chunk.choices else "", end="", flush=True)
print(f"\n\nanswered by {answer.headers['x-smartroute-route']}, attempts: {answer.headers['x-smartroute-attempts']}")

for route in routed.router.status():
    measured = "not measured yet" if route.round_trip is None else f"{route.round_trip * 1e3:.0f} ms away"
    print(f"{route.name:20} {route.state:10} {measured}")
client.close()
