"""What a step, an update, a minibatch, a process more costs: each command writes a page of benchmarks/results."""
