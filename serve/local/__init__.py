"""A server for machines without TensorFlow Serving that answers its REST API: `python -m serve.local --help`."""
