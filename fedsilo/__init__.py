"""Federated organ segmentation: one model across sites, one model a site, and routing at sites nobody trained at."""
