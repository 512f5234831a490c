"""What this machine can do, why not, and what would change that."""
