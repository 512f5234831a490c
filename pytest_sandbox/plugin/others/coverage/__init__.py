"""coverage.py: what it measures in a sandbox, and what the controller's own makes of that."""
