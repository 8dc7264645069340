"""Settings and composition root of the uploadcore application."""
