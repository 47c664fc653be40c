"""Anthropic's wire formats: messages, their batches, legacy completions; on Vertex AI too."""
