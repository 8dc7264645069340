"""Object store on a local folder: the embedded default."""
