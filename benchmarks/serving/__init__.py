"""What `python -m serve.local` bears: load, version changes, nonsense, killed publishers, too much load."""
