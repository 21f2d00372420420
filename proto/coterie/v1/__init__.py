"""Generated messages and service stubs of API v1."""
