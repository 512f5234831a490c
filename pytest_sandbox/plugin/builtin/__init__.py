"""What pytest itself keeps in memory, across the forks: reports, captures, temporary directories, who tears down what.

Imports `planning`.
"""
