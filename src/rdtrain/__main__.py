"""`python -m rdtrain`, which torchrun needs."""

from rdtrain.cli import main

main()
