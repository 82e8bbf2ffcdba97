"""Benchmarks: how fast a recorded day becomes labels, beside what else could have done it."""
