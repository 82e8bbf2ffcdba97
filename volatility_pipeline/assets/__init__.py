"""The assets, one module per stage: each reads, calls one thing, writes, and returns metadata."""
