"""What the notebooks and the command line run on: parameters, runs and their steps, claims, figures."""
