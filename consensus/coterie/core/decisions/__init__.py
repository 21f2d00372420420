"""What a task may not decide alone: effects whose outcome nobody knows, and calls that people approve."""
