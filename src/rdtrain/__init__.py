"""rdtrain: training and experiments for learned image compression."""
