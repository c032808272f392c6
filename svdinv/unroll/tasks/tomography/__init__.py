"""Tomography: CT, spectral CT and PET."""
