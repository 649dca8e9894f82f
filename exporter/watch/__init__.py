"""Tasks: watching conversations, and finding which ones to watch."""
