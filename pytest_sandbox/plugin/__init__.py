"""pytest's side: options, resolving, the walk over the items, the protocol inside, reports. Imports everything below."""
