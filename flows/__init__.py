"""Sequence: one Prefect flow a phase, each also `python -m flows.<phase>`."""

from flows import environment

environment.set_defaults()
