"""Deploying a policy: a client, two command-line tools and a small server that speaks TF Serving's REST API."""
