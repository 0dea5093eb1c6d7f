"""Questions of a report to browse."""
