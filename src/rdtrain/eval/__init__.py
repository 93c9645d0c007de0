"""The command `rdtrain-eval`: the ledger over a test set, with real bitstreams, and bitstream files."""
