"""Cohere's wire formats: chat, embed and rerank, versions 1 and 2."""
