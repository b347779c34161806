"""What a policy is worth: deterministic episodes, films, results read back and drawn.

`video` imports no TensorFlow: it runs in a process that renders.
"""
