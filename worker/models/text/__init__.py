"""Text models in Hugging Face's layout: embeddings, rerankers and classifiers."""
