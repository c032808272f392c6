"""Electrical impedance tomography."""
