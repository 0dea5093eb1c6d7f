"""lmms-eval's model wrappers behind the contract, each in a process of its own."""
