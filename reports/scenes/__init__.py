"""The scenes world from end to end: train every arm, ask it, look where it looks, and write down what came out."""
