"""The report: tables, figures and one HTML page, from result tables only."""
