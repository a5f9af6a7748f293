"""Many sites, one server: states, updates, aggregation, the inside fold."""
