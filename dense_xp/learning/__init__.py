"""What is learned and how: losses, metrics, optimizers, schedules, penalties and constraints."""
