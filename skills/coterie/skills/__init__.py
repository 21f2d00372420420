"""What a skill author sees, and the shipped skills."""
