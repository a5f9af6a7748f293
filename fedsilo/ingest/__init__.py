"""Ingest: a hospital's export in one of several layouts becomes a site in the nnU-Net raw layout, without its identities."""
