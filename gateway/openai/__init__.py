"""The paths under /v1, as OpenAI's, Cohere's and Jina's clients use them."""
