"""Framings: bytes in any chunking to whole events. Sans-IO; a framer keeps what is incomplete and nothing else."""
