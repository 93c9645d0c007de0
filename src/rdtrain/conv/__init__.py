"""Spectral and plain convolutions, and exact conversion between them."""
