"""One folder a task: its options, rows, objective and metrics. A task is found by its folder's name."""
