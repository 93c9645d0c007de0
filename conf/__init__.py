"""The Hydra configuration tree, read as `pkg://rdtrain.conf`."""
