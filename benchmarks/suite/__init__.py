"""Runs of train.py, many at once: what a suite file says, and the command that trains until all are finished."""
