"""What must hold, at a scale the caller chooses: small in the suite, full in `make soak`. Each prints one line of figures."""
