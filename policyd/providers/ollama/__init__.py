"""Ollama's native wire formats."""
