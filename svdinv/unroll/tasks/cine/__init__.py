"""Dynamic MRI: series of the heart from a part of their k-space."""
