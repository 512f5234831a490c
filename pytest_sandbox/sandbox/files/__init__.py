"""Files of sandboxes: what a root is made of, what was written to it, and what of that is brought to the machine."""
