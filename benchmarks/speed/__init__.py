"""What a step, an update, a minibatch, one more process costs: each command writes a page of benchmarks/results."""
