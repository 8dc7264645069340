"""Contract suites for the ports of uploadcore: an adapter's author subclasses them."""
