"""The wires between the hosts: a process that forwards each packet after half a round trip.

Given JSON: `devices` (descriptor -> host number) and `one_way` ([from, to, seconds], hosts from 100 being one place).
For each line on its standard input it prints what it has seen so far; it ends when that is closed.
"""

import json
import os
import select
import sys
import time
from collections import defaultdict
from heapq import heappop, heappush

__all__ = ["CALLERS", "LATE"]

CALLERS = 100
"""Hosts from this number on are in one place."""
MOST = 2048
"""More than any packet has: the devices' MTU is 1500."""
LATE = 0.001
"""Seconds after which a packet counts as late."""
TCP, SYN, ACK = 6, 0x02, 0x10


def main(devices: dict[int, int], one_way: dict[tuple[int, int], float]) -> None:
    """Forward until standard input ends."""
    by_host = {host: device for device, host in devices.items()}
    waiting: list[tuple[float, int, int, bytes]] = []
    ports: defaultdict[str, set[int]] = defaultdict(set)
    seen = late = 0
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([*devices, 0], [], [], timeout)
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            due, _, device, packet = heappop(waiting)
            late += now - due > LATE
            os.write(device, packet)
        for device in ready:
            if device == 0:
                if not os.read(0, MOST):
                    return
                connections = {way: len(found) for way, found in ports.items()}
                print(json.dumps({"packets": seen, "late": late, "connections": connections}), flush=True)
                continue
            packet = os.read(device, MOST)
            if packet[0] >> 4 != 4 or packet[19] not in by_host:
                continue  # IPv6 looks for its neighbours
            source, target = packet[15], packet[19]
            seen += 1
            header = (packet[0] & 15) * 4
            if packet[9] == TCP and packet[header + 13] & (SYN | ACK) == SYN:
                ports[f"{source}-{target}"].add(int.from_bytes(packet[header : header + 2], "big"))
            delay = one_way[min(source, CALLERS), min(target, CALLERS)]
            heappush(waiting, (now + delay, seen, by_host[target], packet))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    main(
        {int(device): host for device, host in given["devices"].items()},
        {(source, target): seconds for source, target, seconds in given["one_way"]},
    )
