"""Evidence: what is measured, and what came out.

suites/      which runs there are, and what they are compared with
suite/       `python -m benchmarks.suite` trains them
peers/       the same by other libraries
results.py   publishes what they came to; pages/ has its tables, curves.py its curves, outcomes.py what is kept of a run
results/     what was published, and the pages of all measurements
speed/       what a step, an update, a minibatch costs
serving/     what the embedded server bears
reliability/ what a training survives
"""
