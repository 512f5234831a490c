"""What was asked for: options and markers, and what follows from them for each test. Imports none of its siblings."""
