"""A load on one address, from a process of its own: aiohttp's client on uvloop, as many connections as callers.

Reads one line of JSON (address, texts, callers, per_request, seconds) for each load, and answers with one.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import aiohttp
import uvloop


async def load(wish: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each answered request, and the statuses of those that were not."""
    texts, per_request = wish["texts"], wish["per_request"]
    seconds: list[float] = []
    refused: dict[str, int] = {}

    async def caller(session: aiohttp.ClientSession, first: int, end: float) -> None:
        while time.perf_counter() < end:
            chosen = [texts[(first + at) % len(texts)] for at in range(per_request)]
            first += per_request * wish["callers"]
            body = json.dumps({"texts": chosen}).encode()
            start = time.perf_counter()
            async with session.post(wish["address"], data=body, headers={"content-type": "application/json"}) as answer:
                await answer.read()
                if answer.status == 200:
                    seconds.append(time.perf_counter() - start)
                else:
                    refused[str(answer.status)] = refused.get(str(answer.status), 0) + 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def all_callers(length: float) -> float:
            start = time.perf_counter()
            callers = (caller(session, at * per_request, start + length) for at in range(wish["callers"]))
            await asyncio.gather(*callers)
            return time.perf_counter() - start

        await all_callers(min(1.0, wish["seconds"] / 4))  # connections and caches
        seconds.clear()
        refused.clear()
        lasted = await all_callers(wish["seconds"])
    return {"lasted": lasted, "seconds": sorted(seconds), "refused": refused}


def main() -> None:
    """Answer wishes until there is no more."""
    for line in sys.stdin:
        print(json.dumps(uvloop.run(load(json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
