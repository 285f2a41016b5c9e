"""The report: one HTML page that is read without network."""
