"""What runs on the other side of the fork: the launcher, inits, main processes, and what they are told."""
