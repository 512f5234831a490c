"""Composes the primitives into sandboxes: enter, run, close; the child's side; the wire; what the host can do."""
