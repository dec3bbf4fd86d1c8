"""How a kernel is cut into programs and tiles, and where in memory it keeps what registers do not hold."""
