"""The suites: each module has ``SUITE``."""
