"""The algorithm (Lillicrap et al., Algorithm 1): networks, and the update of a block of minibatches.

Knows Config and minibatches; no environment, no file.
"""
