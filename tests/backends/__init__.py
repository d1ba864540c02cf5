"""Proof in real tracing backends: too heavy for `make test`, run by targets of their own (`make trace-proof`)."""
