"""Who calls, what they may call, and whose things they see."""
