"""The parts of the benchmark: each module has one `Part`, and a line in `registry`."""
