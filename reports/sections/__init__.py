"""The parts of a report: each reads run folders and gives a `Section`, or None where no run has anything for it."""
