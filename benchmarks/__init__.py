"""What smartroute costs and what it gains, measured side by side. `python -m benchmarks --help`."""
