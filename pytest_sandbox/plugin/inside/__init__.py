"""What runs in a sandbox: the processes of scopes and of tests. Imports `others` and what is below that."""
