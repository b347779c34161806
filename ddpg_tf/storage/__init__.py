"""A run on disk: its directory, checkpoints, and the policy read back from them."""
