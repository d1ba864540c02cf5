"""Every fault on real sockets: `python -m benchmarks chaos`.

clients.py   the kinds of clients, each under the real OpenAI SDK; one call and what came of it
world.py     the endpoints: a best region, a second-best, a third, a global endpoint, and a stranger
network.py   what only a network of one's own can do: dropped packets, dead connections, sick DNS
faults.py    the faults, and what has to come of each
plays.py     how a fault is played: once for all, or as a story
engine.py    one cell of the matrix: a fault, a client, streamed or not
worker.py    a process that plays cells
command.py   the command: processes, the matrix, the verdict
"""
