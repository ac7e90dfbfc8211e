"""Send commands to Home Assistant's WebSocket API: ``websocket.py URL TOKEN <COMMANDS``, as JSON.

It runs in Home Assistant's environment, and prints the results.
"""

import asyncio
import json
import sys
from typing import Any

import aiohttp


async def results(url: str, token: str, commands: list[dict[str, Any]]) -> list[Any]:
    """Send one command after another; return the result of each.

    Raises:
        RuntimeError: One was refused.
    """
    found = []
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as connection:
        await connection.receive_json()
        await connection.send_json({"type": "auth", "access_token": token})
        await connection.receive_json()
        for number, command in enumerate(commands, 1):
            await connection.send_json({"id": number, **command})
            reply = await connection.receive_json()
            if not reply.get("success"):
                raise RuntimeError(f"{command}: {reply}")
            found.append(reply["result"])
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(results(sys.argv[1], sys.argv[2], json.load(sys.stdin)))))
