"""Mistral's wire formats where they differ from OpenAI's: chat, fill-in-the-middle, OCR."""
