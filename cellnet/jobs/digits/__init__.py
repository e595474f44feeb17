"""A small real task to train on: handwritten digits, a network of 2,410 weights, and the job that trains it."""
