"""Time to first token across a WAN that is on this machine: `python -m benchmarks wan`, docs/wan.md."""
