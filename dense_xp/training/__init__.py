"""From data to a trained model: the step, the loop, prediction."""
