"""Speed beside a peer, in one process; see docs/benchmarks.md."""
