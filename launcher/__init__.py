"""Fine-tuning from a recipe, from a laptop CPU to a Slurm cluster. Importing this does nothing else."""

__version__ = "0.1.0"
