"""Outside of every sandbox: the controller's side, which starts, hears, judges and ends them."""
