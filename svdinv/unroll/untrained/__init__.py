"""Untrained priors: an image as the output of a network that is fitted to its data."""
