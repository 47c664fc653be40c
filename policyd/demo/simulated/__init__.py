"""The parts of the simulated provider; `policyd.demo.provider` puts them together."""
