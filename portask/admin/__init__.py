"""What operators need beside the broker itself."""
