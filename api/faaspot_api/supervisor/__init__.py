"""`fas up`: starts, watches, restarts and stops everything else."""
