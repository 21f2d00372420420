"""Backups: what a node gives out as one, the file it becomes, and a new cluster made of it."""
