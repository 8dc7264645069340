"""Cache on Redis."""
