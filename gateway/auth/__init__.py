"""Who may ask: API keys, what each may do, and how much. Without keys everybody may, at no cost per request."""
