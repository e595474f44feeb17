"""Whole networks without a network: protocol cores in virtual time, faults by a seed, and a check of what happened."""

from cellnet.simulation.faults import Fault
from cellnet.simulation.history import History, Outcome
from cellnet.simulation.run import Run, simulate

__all__ = ["Fault", "History", "Outcome", "Run", "simulate"]
