"""What a site holds: cases, facts, contract, splits, preprocessing."""
