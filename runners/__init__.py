"""One Catalyst runner a file. Import them as `rdtrain.runners`."""
