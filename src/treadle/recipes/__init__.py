"""Complete applications: a file or a small folder each."""
