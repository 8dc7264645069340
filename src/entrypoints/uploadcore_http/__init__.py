"""HTTP service of uploadcore."""
