"""What a training survives: small runs are disturbed, resumed, and compared with undisturbed ones."""
