"""The engine on a 64-bit Arm processor that QEMU emulates: ``make arm``."""
