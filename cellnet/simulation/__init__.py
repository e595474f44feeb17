"""Whole networks without a network: protocol cores in virtual time, faults by a seed, and a check of what happened."""
