"""Kernels as chains of smaller kernels: which filters can be written so, how to find them, and what it saves."""
