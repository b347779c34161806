"""Runs of train.py, many at once: how a file of suites/ is read, and the command that trains until all are finished."""
