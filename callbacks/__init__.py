"""One Catalyst callback a file, named after its class. Import them as `rdtrain.callbacks`."""
