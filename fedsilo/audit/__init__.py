"""The audit trail: signed events in a hash chain that strangers can verify."""
