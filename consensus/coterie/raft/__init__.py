"""The Raft shell: the only package that knows PySyncObj, and how entries look on disk."""
