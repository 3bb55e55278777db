"""Networks, losses and metrics."""
