"""Training runs as folders whose files are the truth."""
