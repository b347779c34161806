"""Environments + acting policy -> transitions: exploration noise, episodes and their seeds.

Knows environments and what acts; nothing of learning. Runs here, or in processes of Ray's.
"""
