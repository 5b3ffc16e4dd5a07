"""Everything that is done with a trained tri-plane generator: load it, look at it, film it."""
