"""One file per strategy; see `backend.tuning.strategy.Strategy`."""
