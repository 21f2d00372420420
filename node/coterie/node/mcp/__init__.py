"""Tools of MCP servers for running tasks: each call an effect that is recorded."""
