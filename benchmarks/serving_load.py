"""Puts load on one address from a process of its own: aiohttp's client on uvloop, as many connections as callers.

It reads one line of JSON (address, texts, callers, per_request, seconds) for each load, and answers with one line.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import aiohttp
import uvloop


async def load(request: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds of each answered request, and the statuses of refused ones."""
    texts = request["texts"]
    per_request = request["per_request"]
    seconds: list[float] = []
    refused: dict[str, int] = {}

    async def caller(session: aiohttp.ClientSession, first: int, end: float) -> None:
        while time.perf_counter() < end:
            chosen = [texts[(first + index) % len(texts)] for index in range(per_request)]
            first += per_request * request["callers"]
            body = json.dumps({"texts": chosen}).encode()
            headers = {"content-type": "application/json"}
            start = time.perf_counter()
            async with session.post(request["address"], data=body, headers=headers) as response:
                await response.read()
                if response.status == 200:
                    seconds.append(time.perf_counter() - start)
                else:
                    refused[str(response.status)] = refused.get(str(response.status), 0) + 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def all_callers(length: float) -> float:
            start = time.perf_counter()
            callers = (caller(session, index * per_request, start + length) for index in range(request["callers"]))
            await asyncio.gather(*callers)
            return time.perf_counter() - start

        await all_callers(min(1.0, request["seconds"] / 4))  # warms up connections and caches
        seconds.clear()
        refused.clear()
        duration = await all_callers(request["seconds"])
    return {"duration": duration, "seconds": sorted(seconds), "refused": refused}


def main() -> None:
    """Run loads until standard input closes."""
    for line in sys.stdin:
        print(json.dumps(uvloop.run(load(json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
