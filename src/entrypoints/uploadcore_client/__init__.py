"""Python SDK for the uploadcore HTTP service."""
