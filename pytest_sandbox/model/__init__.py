"""The vocabulary: frozen data and errors. Imports nothing of the package outside this folder."""
