"""Tools of the repository: checks and code generation."""
