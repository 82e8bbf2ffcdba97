"""The serving side: live features, and the API that answers from them."""
