"""The readers of tables and files that all commands share."""
