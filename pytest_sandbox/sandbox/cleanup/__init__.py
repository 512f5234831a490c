"""What a run leaves on the machine, and who removes it when the run cannot."""
