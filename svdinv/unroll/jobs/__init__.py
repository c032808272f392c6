"""What the command line does: training, evaluation, reconstruction, studies."""
