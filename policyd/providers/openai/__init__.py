"""OpenAI's wire formats, which most other vendors adopt: chat, responses, completions, embeddings, images, audio."""
