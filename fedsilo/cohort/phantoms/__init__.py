"""The embedded cohort: procedural anatomy, analytic CT and MR contrast."""
