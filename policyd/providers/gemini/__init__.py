"""Google's wire formats: generateContent, embeddings, interactions; on Vertex AI too."""
