"""Tasks: following conversations, and finding which to follow."""
