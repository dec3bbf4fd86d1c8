"""Servers under load: hosts in processes of their own, and clients that ask by a clock, whatever the answers do."""

MODEL = "net"
"""What all servers call the network."""
