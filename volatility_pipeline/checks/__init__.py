"""Asset checks: each runs one query that returns bad rows, and passes when there are none."""
