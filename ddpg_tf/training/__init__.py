"""Collect, add, learn, log, evaluate, publish, checkpoint: the one room that knows all the others."""
