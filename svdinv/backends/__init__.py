"""Plumbing: how each framework registers an operation's derivatives."""
