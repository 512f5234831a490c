"""Outside of every sandbox: which there are, and when, and what they say. Imports all others."""
