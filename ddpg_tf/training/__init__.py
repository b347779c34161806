"""Collect, add, learn, log, evaluate, publish, checkpoint: the one package that knows all the others."""
