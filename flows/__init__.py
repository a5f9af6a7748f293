"""Sequence: one Prefect flow a phase, each also `python -m flows.<phase>`."""
