"""The configuration: schema, strict loading, identity, reference page."""
