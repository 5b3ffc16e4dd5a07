"""The model and how it is taught."""
