"""What a user typed becomes a checked configuration. Light: imports neither torch nor compressai."""
