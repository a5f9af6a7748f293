"""A site nobody trained at: routed experts and their unlabelled adaptation."""
