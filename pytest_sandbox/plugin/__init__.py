"""pytest's side: options, resolve, scheduling, protocol, fixtures, report. Imports nothing by itself."""
