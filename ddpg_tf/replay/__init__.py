"""Transitions -> minibatches: a ring on memory-mapped files; n-step returns, stacks, goals in hindsight when sampling.

Knows shapes, a seed and which rows a draw may see; neither Config nor networks.
"""
