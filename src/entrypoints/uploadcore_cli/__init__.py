"""The uploadcore command."""
