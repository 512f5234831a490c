"""What is read of a run: reports with endings and figures, the header, the usage table. Imports `others` and below."""
